<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Tocsin\BreachNotification\Api\Data\ProvenanceRecordInterface;
use Tocsin\BreachNotification\Api\Data\ProvenanceRecordInterfaceFactory;

/**
 * Makes a record for callers of a row of the table.
 */
class MakeRecord
{
    private ProvenanceRecordInterfaceFactory $recordFactory;

    public function __construct(ProvenanceRecordInterfaceFactory $recordFactory)
    {
        $this->recordFactory = $recordFactory;
    }

    /**
     * @param array<string, mixed> $row
     */
    public function execute(array $row): ProvenanceRecordInterface
    {
        return $this->recordFactory->create()
            ->setRecordId((string)$row['record_id'])
            ->setRoot((string)$row['root'])
            ->setCustomerId($row['customer_id'] === null ? null : (int)$row['customer_id'])
            ->setOrderId($row['order_id'] === null ? null : (int)$row['order_id'])
            ->setEntityType((string)$row['entity_type'])
            ->setEntityId((int)$row['entity_id'])
            ->setAttribute((string)$row['attribute'])
            ->setModelId((string)$row['model_id'])
            ->setModelVersion((string)$row['model_version'])
            ->setRunId($row['run_id'])
            ->setDatasetVersion($row['dataset_version'])
            ->setGeneratedAt($this->instant($row['generated_at']))
            ->setDeletedAt($this->instant($row['deleted_at']))
            ->setSupersedes($row['supersedes'])
            ->setKind((string)$row['kind'])
            ->setConfidence($row['confidence'] === null ? null : (float)$row['confidence'])
            ->setSensitivity((string)$row['sensitivity'])
            ->setCategories($this->words($row['categories']))
            ->setElements($this->words($row['elements']))
            ->setSourceSystem($row['source_system'])
            ->setStorageLocation($row['storage_location'])
            ->setInputFields($this->words($row['input_fields']))
            ->setLegalBasis($row['legal_basis'])
            ->setCreatedAt($this->instant($row['created_at']));
    }

    /**
     * @param mixed $stored
     */
    private function instant($stored): ?string
    {
        return $stored === null ? null : str_replace(' ', 'T', substr((string)$stored, 0, 19)) . 'Z';
    }

    /**
     * @param mixed $stored written by SQL it may be anything
     * @return string[]
     */
    private function words($stored): array
    {
        $words = json_decode((string)$stored, true);
        return is_array($words) ? array_values(array_filter($words, 'is_string')) : [];
    }
}
