<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use DateTimeImmutable;
use DateTimeZone;
use Magento\Framework\DB\Adapter\DuplicateException;
use Tocsin\BreachNotification\Api\Data\ProvenanceRecordInterface;
use Tocsin\BreachNotification\Model\ResourceModel\ProvenanceTable;

/**
 * Checks records and stores those that are good: what recording one and recording many have in common.
 */
class StoreRecords
{
    public const RECORDED = 'recorded';
    public const REPEATED = 'repeated';

    /**
     * What makes two records of one id the same. The rest follows from the entity, or is set later.
     */
    private const CONTENT = [
        'entity_type', 'entity_id', 'attribute', 'model_id', 'model_version', 'run_id', 'dataset_version', 'generated_at',
        'supersedes', 'kind', 'confidence', 'sensitivity', 'categories', 'elements', 'source_system', 'storage_location',
        'input_fields', 'legal_basis',
    ];
    private const LISTS = ['categories', 'elements', 'input_fields'];
    private const COLUMNS = [
        'record_id', 'root', 'customer_id', 'order_id', 'entity_type', 'entity_id', 'attribute', 'model_id',
        'model_version', 'run_id', 'dataset_version', 'generated_at', 'supersedes', 'kind', 'confidence', 'sensitivity',
        'categories', 'elements', 'source_system', 'storage_location', 'input_fields', 'legal_basis',
    ];
    /**
     * How often another writer of the same ids may get in between.
     */
    private const MOST_RACES = 5;

    private CheckRecord $checkRecord;
    private ResolveSubjects $resolveSubjects;
    private ProvenanceTable $table;

    public function __construct(CheckRecord $checkRecord, ResolveSubjects $resolveSubjects, ProvenanceTable $table)
    {
        $this->checkRecord = $checkRecord;
        $this->resolveSubjects = $resolveSubjects;
        $this->table = $table;
    }

    /**
     * Return what became of each record, by its key in $records.
     *
     * @param array<int, mixed> $records each an array of fields by name, or a ProvenanceRecordInterface
     * @return array<int, array{record_id: ?string, status: ?string, errors: array<int, array{field: string, reason: string}>}>
     */
    public function execute(array $records): array
    {
        $now = new DateTimeImmutable('now', new DateTimeZone('UTC'));
        $checked = [];
        foreach ($records as $position => $record) {
            $checked[$position] = $this->checkRecord->execute($this->fields($record), $now);
        }
        $this->resolveSubjects->execute($checked);
        foreach ($checked as $one) {
            if ($one->errors === [] && $one->row['record_id'] === null) {
                $one->row['record_id'] = $this->idOfContent($one->row);
            }
        }
        for ($race = 0;; $race++) {
            try {
                return $this->store($checked);
            } catch (DuplicateException $taken) {
                if ($race >= self::MOST_RACES) {
                    throw $taken;
                }
            }
        }
    }

    /**
     * @param array<int, CheckedRecord> $checked
     * @return array<int, array{record_id: ?string, status: ?string, errors: array<int, array{field: string, reason: string}>}>
     */
    private function store(array $checked): array
    {
        $ids = [];
        foreach ($checked as $one) {
            if ($one->errors === []) {
                $ids[] = $one->row['record_id'];
            }
        }
        $known = $ids === [] ? [] : $this->table->byRecordId($ids);
        $new = [];
        $outcomes = [];
        foreach ($checked as $position => $one) {
            $recordId = $one->row['record_id'] ?? null;
            $outcome = ['record_id' => $recordId, 'status' => null, 'errors' => $one->errors];
            if ($one->errors === []) {
                $stored = $known[strtolower($recordId)] ?? null;
                if ($stored === null) {
                    $row = array_replace(array_fill_keys(self::COLUMNS, null), $one->row);
                    $new[] = $known[strtolower($recordId)] = $row;
                    $outcome['status'] = self::RECORDED;
                } elseif ($difference = $this->difference($stored, $one->row)) {
                    $outcome['errors'] = [[
                        'field' => 'record_id',
                        'reason' => (string)__(
                            'is taken by a record with another %1: a record never changes; give the new one an id of its own'
                            . ' and name this one in supersedes',
                            implode(', ', $difference)
                        ),
                    ]];
                } else {
                    $outcome['status'] = self::REPEATED;
                }
            }
            $outcomes[$position] = $outcome;
        }
        if ($new !== []) {
            $this->table->add($new);
        }
        return $outcomes;
    }

    /**
     * @param array<string, mixed> $stored
     * @param array<string, mixed> $given
     * @return string[] the fields in which they differ
     */
    private function difference(array $stored, array $given): array
    {
        $differing = (string)$stored['record_id'] === $given['record_id'] ? [] : ['record_id (in upper or lower case)'];
        foreach (self::CONTENT as $field) {
            if ($this->comparable($field, $stored[$field]) !== $this->comparable($field, $given[$field])) {
                $differing[] = $field;
            }
        }
        // Whom it is about follows from the entity, except where the store does not know the entity.
        if (!in_array($given['entity_type'], ResolveSubjects::KNOWN_TYPES, true)) {
            foreach (['root', 'customer_id', 'order_id'] as $field) {
                if ((string)$stored[$field] !== (string)$given[$field]) {
                    $differing[] = $field;
                }
            }
        }
        return $differing;
    }

    /**
     * @param mixed $value
     */
    private function comparable(string $field, $value): string
    {
        if (in_array($field, self::LISTS, true)) {
            return (string)json_encode($value === null ? [] : json_decode((string)$value, true));
        }
        if ($field === 'confidence' && $value !== null) {
            return number_format((float)$value, 4, '.', '');
        }
        return (string)$value;
    }

    /**
     * An id for a record that was given none: made of its content, so that a repeat is known as such.
     *
     * @param array<string, mixed> $row
     */
    private function idOfContent(array $row): string
    {
        $content = [];
        foreach (array_merge(self::CONTENT, ['root']) as $field) {
            $content[$field] = $this->comparable($field, $row[$field]);
        }
        return hash('sha256', (string)json_encode($content));
    }

    /**
     * @param mixed $record
     * @return mixed
     */
    private function fields($record)
    {
        if (!$record instanceof ProvenanceRecordInterface) {
            return $record;
        }
        return array_filter([
            'record_id' => $record->getRecordId(),
            'root' => $record->getRoot() ?: null,
            'customer_id' => $record->getCustomerId(),
            'order_id' => $record->getOrderId(),
            'entity_type' => $record->getEntityType(),
            'entity_id' => $record->getEntityId(),
            'attribute' => $record->getAttribute(),
            'model_id' => $record->getModelId(),
            'model_version' => $record->getModelVersion(),
            'run_id' => $record->getRunId(),
            'dataset_version' => $record->getDatasetVersion(),
            'generated_at' => $record->getGeneratedAt() ?: null,
            'deleted_at' => $record->getDeletedAt(),
            'supersedes' => $record->getSupersedes(),
            'kind' => $record->getKind(),
            'confidence' => $record->getConfidence(),
            'sensitivity' => $record->getSensitivity(),
            'categories' => $record->getCategories(),
            'elements' => $record->getElements(),
            'source_system' => $record->getSourceSystem(),
            'storage_location' => $record->getStorageLocation(),
            'input_fields' => $record->getInputFields(),
            'legal_basis' => $record->getLegalBasis(),
        ], static fn ($value) => $value !== null);
    }
}
