<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Tocsin\BreachNotification\Api\Data\DataMapEntryInterfaceFactory;
use Tocsin\BreachNotification\Api\GetDataMapInterface;
use Tocsin\BreachNotification\Model\ResourceModel\ProvenanceTable;

/**
 * @inheritDoc
 */
class GetDataMap implements GetDataMapInterface
{
    private ProvenanceTable $table;
    private DataMapEntryInterfaceFactory $entryFactory;

    public function __construct(ProvenanceTable $table, DataMapEntryInterfaceFactory $entryFactory)
    {
        $this->table = $table;
        $this->entryFactory = $entryFactory;
    }

    /**
     * @inheritDoc
     */
    public function execute(): array
    {
        $entries = [];
        foreach ($this->table->dataMap() as $row) {
            $entries[] = $this->entryFactory->create()
                ->setEntityType((string)$row['entity_type'])
                ->setAttribute((string)$row['attribute'])
                ->setModelId((string)$row['model_id'])
                ->setModelVersion((string)$row['model_version'])
                ->setRecordCount((int)$row['record_count'])
                ->setHeldCount((int)$row['held_count'])
                ->setCustomerCount((int)$row['customer_count'])
                ->setOrderCount((int)$row['order_count'])
                ->setFirstGeneratedAt(str_replace(' ', 'T', (string)$row['first_generated_at']) . 'Z')
                ->setLastGeneratedAt(str_replace(' ', 'T', (string)$row['last_generated_at']) . 'Z');
        }
        return $entries;
    }
}
