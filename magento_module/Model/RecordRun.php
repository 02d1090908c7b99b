<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use DateTimeImmutable;
use DateTimeZone;
use Tocsin\BreachNotification\Model\ResourceModel\ProvenanceTable;

/**
 * Records what a run of a model wrote into one entity, as the configuration of AI-written attributes says.
 */
class RecordRun
{
    private AiWrittenAttributes $attributes;
    private StoreRecords $storeRecords;
    private ProvenanceTable $table;

    public function __construct(AiWrittenAttributes $attributes, StoreRecords $storeRecords, ProvenanceTable $table)
    {
        $this->attributes = $attributes;
        $this->storeRecords = $storeRecords;
        $this->table = $table;
    }

    /**
     * Return what became of each configured attribute that was written: recorded, repeated or why it was refused.
     *
     * A run has one record per attribute of an entity: its id is made of these, so that a repeated save adds none.
     * Records of the same attribute that the store held before are superseded and retired: their value is overwritten.
     * A version that neither the run nor the configuration names is not made up: a record with a wrong one would hide
     * the write from an alert about the right one, while without a record it is found as untagged.
     *
     * @param string $root customer/<id> or order/<id>
     * @param string[] $written codes of attributes
     * @return array<string, string> attribute => recorded | repeated | the reason against it
     */
    public function execute(
        NamedRun $run,
        string $root,
        string $entityType,
        int $entityId,
        array $written,
        ?string $sourceSystem
    ): array {
        $records = [];
        foreach ($this->attributes->all() as $attribute) {
            if ($attribute->entityType !== $entityType || !in_array($attribute->attribute, $written, true)
                || ($run->attributes !== [] && !in_array($attribute->attribute, $run->attributes, true))
            ) {
                continue;
            }
            $version = $run->modelVersion ?? $attribute->modelVersion;
            $records[$attribute->attribute] = [
                'record_id' => $this->recordId([$root, $entityType, $entityId, $attribute->attribute,
                    $attribute->modelId, $version, $run->runId, $run->datasetVersion]),
                'root' => $root,
                'entity_type' => $entityType,
                'entity_id' => $entityId,
                'attribute' => $attribute->attribute,
                'model_id' => $attribute->modelId,
                'model_version' => $version,
                'run_id' => $run->runId,
                'dataset_version' => $run->datasetVersion,
                'generated_at' => (new DateTimeImmutable('now', new DateTimeZone('UTC')))->format(DATE_ATOM),
                'kind' => $attribute->kind,
                'sensitivity' => $attribute->sensitivity,
                'categories' => $attribute->categories,
                'elements' => $attribute->elements,
                'source_system' => $sourceSystem,
            ];
        }
        if ($records === []) {
            return [];
        }
        $outcomes = [];
        $known = $this->table->byRecordId(array_column($records, 'record_id'));
        foreach ($records as $code => $record) {
            $stored = $known[$record['record_id']] ?? null;
            if ($stored !== null && $stored['deleted_at'] === null) {
                $outcomes[$code] = StoreRecords::REPEATED;
                unset($records[$code]);
            } elseif ($stored !== null) { // removed since, and now written again by the same run
                $records[$code]['record_id'] = $this->recordId([$record['record_id'], $record['generated_at']]);
            }
        }
        $superseded = $this->table->newestHeld($root, $entityType, $entityId, array_keys($records));
        foreach ($superseded as $code => $recordId) {
            $records[$code]['supersedes'] = $recordId;
        }
        $codes = array_keys($records);
        foreach ($codes === [] ? [] : $this->storeRecords->execute(array_values($records)) as $place => $outcome) {
            $error = $outcome['errors'][0] ?? null;
            $code = $codes[$place];
            $outcomes[$code] = $error === null ? (string)$outcome['status'] : $error['field'] . ' ' . $error['reason'];
            if ($error === null && isset($superseded[$code])) {
                // The save has overwritten the value: who held it before is not exposed by a later leak. A crash before
                // this line leaves both records as held, which tells too many rather than too few.
                $at = (new DateTimeImmutable($records[$code]['generated_at']))->format('Y-m-d H:i:s');
                $this->table->retireReplaced($root, $entityType, $entityId, $code, (string)$outcome['record_id'], $at);
            }
        }
        return $outcomes;
    }

    /**
     * @param mixed[] $parts
     */
    private function recordId(array $parts): string
    {
        return 'run-' . substr(hash('sha256', (string)json_encode($parts)), 0, 60);
    }
}
