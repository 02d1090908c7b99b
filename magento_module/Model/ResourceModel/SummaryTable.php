<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\ResourceModel;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\DB\Adapter\AdapterInterface;

/**
 * The values of the customer attributes that sum up what AI data is held, and what they are derived from.
 *
 * It has the shape of Magento's value tables, so that Magento reads it as such.
 */
class SummaryTable
{
    public const TABLE = 'tocsin_customer_summary';
    public const HELD = 'tocsin_ai_data_held';
    public const MODELS = 'tocsin_ai_models';
    public const HIGHEST_SENSITIVITY = 'tocsin_ai_sensitivity';
    public const ATTRIBUTES = [self::HELD, self::MODELS, self::HIGHEST_SENSITIVITY];

    private ResourceConnection $resource;

    public function __construct(ResourceConnection $resource)
    {
        $this->resource = $resource;
    }

    /**
     * @return array<string, int> attribute code => id
     */
    public function attributeIds(): array
    {
        $connection = $this->connection();
        return array_map('intval', $connection->fetchPairs($connection->quoteInto(
            "SELECT a.attribute_code, a.attribute_id FROM {$this->name('eav_attribute')} a"
            . " JOIN {$this->name('eav_entity_type')} t ON t.entity_type_id = a.entity_type_id"
            . " WHERE t.entity_type_code = 'customer' AND a.attribute_code IN (?)",
            self::ATTRIBUTES
        )));
    }

    /**
     * @return array<string, int> sensitivity => id of its option
     */
    public function sensitivityOptions(int $attributeId): array
    {
        $options = $this->connection()->fetchPairs(
            "SELECT LOWER(v.value), o.option_id FROM {$this->name('eav_attribute_option')} o"
            . " JOIN {$this->name('eav_attribute_option_value')} v ON v.option_id = o.option_id AND v.store_id = 0"
            . ' WHERE o.attribute_id = :attribute',
            ['attribute' => $attributeId]
        );
        return array_map('intval', $options);
    }

    public function newestRecord(): int
    {
        return (int)$this->connection()->fetchOne("SELECT MAX(id) FROM {$this->name('tocsin_provenance')}");
    }

    /**
     * Return customers with records written after a row, or retired since a time, in the order of their ids.
     *
     * @param string $retiredSince UTC
     * @return int[]
     */
    public function changed(int $afterRecord, string $retiredSince, int $afterCustomer, int $limit): array
    {
        $table = $this->name('tocsin_provenance');
        return array_map('intval', $this->connection()->fetchCol(
            "SELECT customer_id FROM $table WHERE id > :record AND customer_id > :customer"
            . " UNION SELECT customer_id FROM $table WHERE deleted_at >= :since AND customer_id > :customer2"
            . sprintf(' ORDER BY customer_id LIMIT %d', $limit),
            ['record' => $afterRecord, 'customer' => $afterCustomer, 'since' => $retiredSince, 'customer2' => $afterCustomer]
        ));
    }

    /**
     * Return customers that have records or a summary, in the order of their ids.
     *
     * @return int[]
     */
    public function summarized(int $afterCustomer, int $limit): array
    {
        $limited = sprintf('LIMIT %d', $limit);
        return array_map('intval', $this->connection()->fetchCol(
            "(SELECT DISTINCT customer_id FROM {$this->name('tocsin_provenance')} WHERE customer_id > :customer"
            . " ORDER BY customer_id $limited) UNION"
            . " (SELECT DISTINCT entity_id FROM {$this->name(self::TABLE)} WHERE entity_id > :customer2"
            . " ORDER BY entity_id $limited) ORDER BY 1 $limited",
            ['customer' => $afterCustomer, 'customer2' => $afterCustomer]
        ));
    }

    /**
     * Return what is held about customers that the store has: models, versions and sensitivities. Data that no model made
     * ("real") is not AI data.
     *
     * @param int[] $customerIds
     * @return array<int, array<int, array<string, mixed>>> by customer; empty for who holds none
     */
    public function held(array $customerIds): array
    {
        $connection = $this->connection();
        $held = [];
        foreach ($connection->fetchCol($connection->quoteInto(
            "SELECT entity_id FROM {$this->name('customer_entity')} WHERE entity_id IN (?)",
            $customerIds
        )) as $customerId) {
            $held[(int)$customerId] = [];
        }
        if ($held === []) {
            return [];
        }
        foreach ($connection->fetchAll($connection->quoteInto(
            'SELECT DISTINCT customer_id, model_id, model_version, sensitivity'
            . " FROM {$this->name('tocsin_provenance')}"
            . " WHERE customer_id IN (?) AND deleted_at IS NULL AND kind <> 'real'"
            . ' ORDER BY model_id, model_version',
            array_keys($held)
        )) as $row) {
            $held[(int)$row['customer_id']][] = $row;
        }
        return $held;
    }

    /**
     * @param int[] $customerIds
     * @return array<int, array<int, string>> customer => attribute id => value
     */
    public function values(array $customerIds): array
    {
        $connection = $this->connection();
        $values = [];
        foreach ($connection->fetchAll($connection->quoteInto(
            "SELECT entity_id, attribute_id, value FROM {$this->name(self::TABLE)} WHERE entity_id IN (?)",
            $customerIds
        )) as $row) {
            $values[(int)$row['entity_id']][(int)$row['attribute_id']] = (string)$row['value'];
        }
        return $values;
    }

    /**
     * Write values. One statement, committed by itself; a crash before it leaves older values, and the next run mends them.
     *
     * @param array<int, array{attribute_id: int, entity_id: int, value: string}> $rows
     */
    public function write(array $rows): void
    {
        if ($rows !== []) {
            $this->connection()->insertOnDuplicate($this->resource->getTableName(self::TABLE), $rows, ['value']);
        }
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
