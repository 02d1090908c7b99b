<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use Magento\Framework\DB\Adapter\DuplicateException;
use Tocsin\BreachNotification\Model\ResourceModel\ProvenanceTable;

/**
 * The table in memory, with its unique key, beside a store of customers 1-9, of addresses 11 (of 1) and 12 (of 2), and of
 * orders 21 (of customer 1) and 22 (of a guest). The real one is tried in Test/Sql.
 */
class FakeProvenanceTable extends ProvenanceTable
{
    /**
     * @var array<int, array<string, mixed>>
     */
    public array $rows = [];
    /**
     * What another writer stores just before the next write.
     *
     * @var array<int, array<string, mixed>>
     */
    public array $rival = [];
    public int $queries = 0;

    public function __construct()
    {
    }

    public function add(array $rows): void
    {
        $this->queries++;
        $rival = $this->rival;
        $this->rival = [];
        foreach ($rival as $row) {
            $this->rows[] = $row + ['deleted_at' => null, 'created_at' => '2026-11-01 00:00:00'];
        }
        foreach ($rows as $row) {
            if (isset($this->byRecordId([$row['record_id']])[strtolower($row['record_id'])])) {
                throw new DuplicateException('Duplicate entry');
            }
        }
        foreach ($rows as $row) {
            $this->rows[] = $row + ['deleted_at' => null, 'created_at' => '2026-11-01 00:00:00'];
        }
    }

    public function byRecordId(array $recordIds): array
    {
        $wanted = array_map('strtolower', $recordIds);
        $found = [];
        foreach ($this->rows as $row) {
            if (in_array(strtolower($row['record_id']), $wanted, true)) {
                $found[strtolower($row['record_id'])] = $row;
            }
        }
        return $found;
    }

    public function page(string $column, int $id, int $pageSize, int $currentPage): array
    {
        return array_slice($this->allOf($column, [$id]), ($currentPage - 1) * $pageSize, $pageSize);
    }

    public function countOf(string $column, int $id): int
    {
        return count($this->allOf($column, [$id]));
    }

    public function allOf(string $column, array $ids): array
    {
        $this->queries++;
        return array_values(array_filter($this->rows, static fn ($row) => in_array($row[$column], $ids, true)));
    }

    public function newestHeld(string $root, string $entityType, int $entityId, array $attributes): array
    {
        $newest = [];
        foreach ($this->rows as $row) {
            if ($row['root'] === $root && $row['entity_type'] === $entityType && $row['entity_id'] === $entityId
                && in_array($row['attribute'], $attributes, true) && $row['deleted_at'] === null
            ) {
                $newest[$row['attribute']] = $row['record_id'];
            }
        }
        return $newest;
    }

    public function retire(string $recordId, string $deletedAt): bool
    {
        foreach ($this->rows as &$row) {
            if ($row['record_id'] === $recordId && $row['deleted_at'] === null) {
                $row['deleted_at'] = $deletedAt;
                return true;
            }
        }
        return false;
    }

    public function retireReplaced(
        string $root,
        string $entityType,
        int $entityId,
        string $attribute,
        string $replacedBy,
        string $at
    ): int {
        $retired = 0;
        foreach ($this->rows as &$row) {
            if ([$row['root'], $row['entity_type'], $row['entity_id'], $row['attribute'], $row['deleted_at']]
                === [$root, $entityType, $entityId, $attribute, null] && $row['record_id'] !== $replacedBy
            ) {
                $row['deleted_at'] = $at;
                $retired++;
            }
        }
        return $retired;
    }

    public function dataMap(): array
    {
        return [[
            'entity_type' => 'customer', 'attribute' => 'churn_score', 'model_id' => 'churn', 'model_version' => '7',
            'record_count' => '3', 'held_count' => '2', 'customer_count' => '2', 'order_count' => '0',
            'first_generated_at' => '2026-03-01 10:00:00', 'last_generated_at' => '2026-04-01 10:00:00',
        ]];
    }

    public function customers(array $customerIds): array
    {
        return array_fill_keys(array_filter($customerIds, static fn ($id) => $id >= 1 && $id <= 9), true);
    }

    public function customersOfAddresses(array $addressIds): array
    {
        return array_intersect_key([11 => 1, 12 => 2], array_flip($addressIds));
    }

    public function customersOfOrders(array $orderIds): array
    {
        return array_intersect_key([21 => 1, 22 => null], array_flip($orderIds));
    }
}
