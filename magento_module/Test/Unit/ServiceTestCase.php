<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use PHPUnit\Framework\TestCase;
use Tocsin\BreachNotification\Api\Data\ProvenanceRecordInterfaceFactory;
use Tocsin\BreachNotification\Model\CheckRecord;
use Tocsin\BreachNotification\Model\MakeRecord;
use Tocsin\BreachNotification\Model\ResolveSubjects;
use Tocsin\BreachNotification\Model\StoreRecords;

abstract class ServiceTestCase extends TestCase
{
    protected FakeProvenanceTable $table;

    protected function setUp(): void
    {
        $this->table = new FakeProvenanceTable();
    }

    protected function storeRecords(): StoreRecords
    {
        return new StoreRecords(new CheckRecord(), new ResolveSubjects($this->table), $this->table);
    }

    protected function makeRecord(): MakeRecord
    {
        return new MakeRecord(new ProvenanceRecordInterfaceFactory());
    }

    /**
     * A record without fault, and what to have otherwise.
     *
     * @param array<string, mixed> $otherwise
     * @return array<string, mixed>
     */
    protected static function record(array $otherwise = []): array
    {
        return array_replace([
            'record_id' => 'r-1',
            'entity_type' => 'customer',
            'entity_id' => 1,
            'attribute' => 'churn_score',
            'model_id' => 'churn',
            'model_version' => '7',
            'generated_at' => '2026-03-01T10:00:00Z',
            'kind' => 'inferred',
            'sensitivity' => 'high',
            'categories' => ['profile'],
        ], $otherwise);
    }
}
