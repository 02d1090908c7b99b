<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Tocsin\BreachNotification\Model\ResourceModel\ProvenanceTable;

/**
 * Finds whom records are about, in the store's own tables, and refuses what is about nobody there.
 */
class ResolveSubjects
{
    /**
     * Entities that the store holds. About any other a record must say whom it concerns.
     */
    public const KNOWN_TYPES = ['customer', 'customer_address', 'order'];

    private ProvenanceTable $table;

    public function __construct(ProvenanceTable $table)
    {
        $this->table = $table;
    }

    /**
     * Fill in root, customer and order of each record, or say why that cannot be. Three queries, however many records.
     *
     * @param array<int, CheckedRecord> $records
     */
    public function execute(array $records): void
    {
        $records = array_filter($records, static fn (CheckedRecord $one) => $one->errors === []);
        $wanted = ['customer' => [], 'customer_address' => [], 'order' => []];
        foreach ($records as $one) {
            $row = $one->row;
            if (isset($wanted[$row['entity_type']])) {
                $wanted[$row['entity_type']][$row['entity_id']] = true;
            }
            [$rootType, $rootId] = $this->root($row);
            $wanted[$rootType][$rootId] = true;
            $wanted['customer'][(int)$row['customer_id']] = true;
            $wanted['order'][(int)$row['order_id']] = true;
        }
        foreach ($wanted as &$ids) {
            unset($ids[0]);
            $ids = array_keys($ids);
        }
        unset($ids);
        $customers = $this->table->customers($wanted['customer']);
        $addresses = $this->table->customersOfAddresses($wanted['customer_address']);
        $orders = $this->table->customersOfOrders($wanted['order']);
        foreach ($records as $one) {
            $this->resolve($one, $customers, $addresses, $orders);
        }
    }

    /**
     * @param array<int, true> $customers
     * @param array<int, int> $addresses
     * @param array<int, int|null> $orders
     */
    private function resolve(CheckedRecord $one, array $customers, array $addresses, array $orders): void
    {
        $row = &$one->row;
        $id = $row['entity_id'];
        [$rootType, $rootId] = $this->root($row);
        switch ($row['entity_type']) {
            case 'customer':
                if (!isset($customers[$id])) {
                    $one->refuse('entity_id', (string)__('is %1; the store has no such customer', $id));
                    return;
                }
                $customer = $id;
                $order = null;
                break;
            case 'customer_address':
                if (!isset($addresses[$id])) {
                    $one->refuse('entity_id', (string)__('is %1; the store has no such customer address', $id));
                    return;
                }
                $customer = $addresses[$id];
                $order = null;
                break;
            case 'order':
                if (!array_key_exists($id, $orders)) {
                    $one->refuse('entity_id', (string)__('is %1; the store has no such order', $id));
                    return;
                }
                $customer = $orders[$id];
                $order = $id;
                break;
            default:
                $order = $row['order_id'] ?? ($rootType === 'order' && $rootId > 0 ? $rootId : null);
                $customer = $row['customer_id'] ?? ($rootType === 'customer' && $rootId > 0 ? $rootId : null);
                if ($order === null && $customer === null) {
                    $one->refuse('customer_id', (string)__(
                        'is needed (or order_id): the store does not know whom a %1 is about',
                        $row['entity_type']
                    ));
                    return;
                }
                if ($order !== null && !array_key_exists($order, $orders)) {
                    $one->refuse('order_id', (string)__('is %1; the store has no such order', $order));
                }
                if ($customer !== null && !isset($customers[$customer])) {
                    $one->refuse('customer_id', (string)__('is %1; the store has no such customer', $customer));
                }
                if ($one->errors !== []) {
                    return;
                }
                $customer ??= $orders[$order];
        }
        foreach (['customer_id' => $customer, 'order_id' => $order] as $field => $found) {
            if ($row[$field] !== null && $row[$field] !== $found) {
                $one->refuse($field, (string)__(
                    'is %1, but the %2 %3 belongs to %4',
                    $row[$field],
                    $row['entity_type'],
                    $id,
                    $found === null ? 'none' : $found
                ));
            }
        }
        if ($order !== null && $customer !== null && ($orders[$order] ?? null) !== $customer) {
            $one->refuse('customer_id', (string)__('is %1, but order %2 is not theirs', $customer, $order));
        }
        $root = $order !== null ? "order/$order" : "customer/$customer";
        if ($row['root'] !== null && $row['root'] !== $root) {
            $one->refuse('root', (string)__('is %1, but the record is about %2', $row['root'], $root));
        }
        $row['root'] = $root;
        $row['customer_id'] = $customer;
        $row['order_id'] = $order;
    }

    /**
     * @param array<string, mixed> $row
     * @return array{0: string, 1: int}
     */
    private function root(array $row): array
    {
        [$type, $id] = $row['root'] === null ? ['customer', '0'] : explode('/', $row['root']);
        return [$type, (int)$id];
    }
}
