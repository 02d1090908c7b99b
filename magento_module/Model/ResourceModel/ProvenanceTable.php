<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\ResourceModel;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\DB\Adapter\AdapterInterface;

/**
 * The only place that reads and writes the table of provenance records.
 *
 * A row is written once; afterwards only deleted_at may be set, and only from NULL.
 */
class ProvenanceTable
{
    private const TABLE = 'tocsin_provenance';
    private const COLUMNS = 'record_id, root, customer_id, order_id, entity_type, entity_id, attribute, model_id, '
        . 'model_version, run_id, dataset_version, generated_at, deleted_at, supersedes, kind, confidence, sensitivity, '
        . 'categories, elements, source_system, storage_location, input_fields, legal_basis, created_at';

    private ResourceConnection $resource;

    public function __construct(ResourceConnection $resource)
    {
        $this->resource = $resource;
    }

    /**
     * Store new rows: all, or none.
     *
     * A crash within leaves nothing: the caller repeats the call, and what was stored is then a repeat.
     *
     * @param array<int, array<string, mixed>> $rows
     * @throws \Magento\Framework\DB\Adapter\DuplicateException if one of the ids was taken meanwhile
     */
    public function add(array $rows): void
    {
        $connection = $this->connection();
        $connection->beginTransaction();
        try {
            $connection->insertMultiple($this->resource->getTableName(self::TABLE), $rows);
            $connection->commit();
        } catch (\Throwable $fault) {
            // also a TypeError: left open, the transaction would swallow the process's later writes
            $connection->rollBack();
            throw $fault;
        }
    }

    /**
     * @param string[] $recordIds
     * @return array<string, array<string, mixed>> rows by record id in lower case, as the unique key compares them
     */
    public function byRecordId(array $recordIds): array
    {
        $rows = [];
        foreach (array_chunk($recordIds, 1000) as $some) {
            foreach ($this->rows('record_id IN (?)', $some) as $row) {
                $rows[strtolower((string)$row['record_id'])] = $row;
            }
        }
        return $rows;
    }

    /**
     * @param string $column customer_id or order_id
     * @return array<int, array<string, mixed>> oldest first
     */
    public function page(string $column, int $id, int $pageSize, int $currentPage): array
    {
        $table = $this->name(self::TABLE);
        return $this->connection()->fetchAll(
            'SELECT ' . self::COLUMNS . " FROM $table WHERE $column = :id"
            . sprintf(' ORDER BY id LIMIT %d OFFSET %d', $pageSize, ($currentPage - 1) * $pageSize),
            ['id' => $id]
        );
    }

    /**
     * @param string $column customer_id or order_id
     */
    public function countOf(string $column, int $id): int
    {
        $table = $this->name(self::TABLE);
        return (int)$this->connection()->fetchOne("SELECT COUNT(*) FROM $table WHERE $column = :id", ['id' => $id]);
    }

    /**
     * @param string $column customer_id or order_id
     * @param int[] $ids
     * @return array<int, array<string, mixed>> oldest first
     */
    public function allOf(string $column, array $ids): array
    {
        return $ids === [] ? [] : $this->rows("$column IN (?)", array_map('intval', $ids));
    }

    /**
     * Return the newest record that is held of each attribute of an entity.
     *
     * @param string[] $attributes
     * @return array<string, string> attribute => record id
     */
    public function newestHeld(string $root, string $entityType, int $entityId, array $attributes): array
    {
        if ($attributes === []) {
            return [];
        }
        [$entity, $id] = explode('/', $root);
        $connection = $this->connection();
        return $connection->fetchPairs(
            $connection->quoteInto(
                "SELECT r.attribute, r.record_id FROM {$this->name(self::TABLE)} r JOIN"
                . " (SELECT MAX(id) AS id FROM {$this->name(self::TABLE)}"
                . " WHERE {$entity}_id = :id AND entity_type = :type AND entity_id = :entity AND deleted_at IS NULL"
                . ' AND attribute IN (?) GROUP BY attribute) newest ON newest.id = r.id',
                $attributes
            ),
            ['id' => (int)$id, 'type' => $entityType, 'entity' => $entityId]
        );
    }

    /**
     * Set deleted_at where it is not set.
     *
     * @return bool whether this call set it
     */
    public function retire(string $recordId, string $deletedAt): bool
    {
        $connection = $this->connection();
        return $connection->update(
            $this->resource->getTableName(self::TABLE),
            ['deleted_at' => $deletedAt],
            $connection->quoteInto('record_id = ?', $recordId) . ' AND deleted_at IS NULL'
        ) > 0;
    }

    /**
     * Set deleted_at of what a newer record of the same attribute replaced.
     *
     * @return int how many records that were
     */
    public function retireReplaced(
        string $root,
        string $entityType,
        int $entityId,
        string $attribute,
        string $replacedBy,
        string $at
    ): int {
        [$entity, $id] = explode('/', $root);
        $connection = $this->connection();
        return $connection->update($this->resource->getTableName(self::TABLE), ['deleted_at' => $at], implode(' AND ', [
            $connection->quoteInto("{$entity}_id = ?", (int)$id),
            $connection->quoteInto('entity_type = ?', $entityType),
            $connection->quoteInto('entity_id = ?', $entityId),
            $connection->quoteInto('attribute = ?', $attribute),
            $connection->quoteInto('record_id <> ?', $replacedBy),
            $connection->quoteInto('generated_at <= ?', $at),
            'deleted_at IS NULL',
        ]));
    }

    /**
     * @return array<int, array<string, mixed>>
     */
    public function dataMap(): array
    {
        return $this->connection()->fetchAll(
            'SELECT entity_type, attribute, model_id, model_version, COUNT(*) AS record_count,'
            . ' COALESCE(SUM(deleted_at IS NULL), 0) AS held_count, COUNT(DISTINCT customer_id) AS customer_count,'
            . ' COUNT(DISTINCT order_id) AS order_count, MIN(generated_at) AS first_generated_at,'
            . " MAX(generated_at) AS last_generated_at FROM {$this->name(self::TABLE)}"
            . ' GROUP BY entity_type, attribute, model_id, model_version'
            . ' ORDER BY entity_type, attribute, model_id, model_version'
        );
    }

    /**
     * @param int[] $customerIds
     * @return array<int, true> those that the store has
     */
    public function customers(array $customerIds): array
    {
        return array_fill_keys(
            $this->column('SELECT entity_id FROM %s WHERE entity_id IN (?)', 'customer_entity', $customerIds),
            true
        );
    }

    /**
     * @param int[] $addressIds
     * @return array<int, int> address => customer
     */
    public function customersOfAddresses(array $addressIds): array
    {
        $pairs = $this->pairs(
            'SELECT entity_id, parent_id FROM %s WHERE parent_id IS NOT NULL AND entity_id IN (?)',
            'customer_address_entity',
            $addressIds
        );
        return array_map('intval', $pairs);
    }

    /**
     * @param int[] $orderIds
     * @return array<int, int|null> order => its customer, null for a guest's
     */
    public function customersOfOrders(array $orderIds): array
    {
        $pairs = $this->pairs('SELECT entity_id, customer_id FROM %s WHERE entity_id IN (?)', 'sales_order', $orderIds);
        return array_map(static fn ($customer) => $customer ? (int)$customer : null, $pairs);
    }

    /**
     * @param array<int, mixed> $values
     * @return array<int, array<string, mixed>>
     */
    private function rows(string $condition, array $values): array
    {
        $connection = $this->connection();
        $select = 'SELECT ' . self::COLUMNS . " FROM {$this->name(self::TABLE)} WHERE $condition ORDER BY id";
        return $connection->fetchAll($connection->quoteInto($select, $values));
    }

    /**
     * @param int[] $ids
     * @return int[]
     */
    private function column(string $select, string $table, array $ids): array
    {
        if ($ids === []) {
            return [];
        }
        $connection = $this->connection();
        return array_map(
            'intval',
            $connection->fetchCol($connection->quoteInto(sprintf($select, $this->name($table)), array_map('intval', $ids)))
        );
    }

    /**
     * @param int[] $ids
     * @return array<int, mixed>
     */
    private function pairs(string $select, string $table, array $ids): array
    {
        if ($ids === []) {
            return [];
        }
        $connection = $this->connection();
        return $connection->fetchPairs(
            $connection->quoteInto(sprintf($select, $this->name($table)), array_map('intval', $ids))
        );
    }

    private function name(string $table): string
    {
        return $this->connection()->quoteIdentifier($this->resource->getTableName($table));
    }

    private function connection(): AdapterInterface
    {
        return $this->resource->getConnection();
    }
}
