<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use Magento\Framework\App\Config\ScopeConfigInterface;
use Tocsin\BreachNotification\Model\AiWrittenAttributes;
use Tocsin\BreachNotification\Model\NamedRun;
use Tocsin\BreachNotification\Model\RecordRun;

class RecordRunTest extends ServiceTestCase
{
    public function testWhatIsConfiguredAndWrittenIsRecorded(): void
    {
        $outcomes = $this->recordRun(new NamedRun('night', null, 'd1', []), ['churn_score', 'unconfigured', 'segment']);
        self::assertSame(['churn_score' => 'recorded', 'segment' => 'model_version is needed'], $outcomes);
        self::assertCount(1, $this->table->rows);
        $row = $this->table->rows[0];
        self::assertSame(
            ['customer/1', 1, 'churn_score', 'churn', '7', 'night', 'd1', 'inferred', 'high', '["profile","risk"]', '[]',
                'integration/5', null],
            [$row['root'], $row['customer_id'], $row['attribute'], $row['model_id'], $row['model_version'], $row['run_id'],
                $row['dataset_version'], $row['kind'], $row['sensitivity'], $row['categories'], $row['elements'],
                $row['source_system'], $row['supersedes']]
        );
    }

    public function testTheRunsVersionGoesBeforeTheConfiguredOne(): void
    {
        $this->recordRun(new NamedRun('night', '8', null, []), ['churn_score', 'segment']);
        self::assertSame(['8', '8'], array_column($this->table->rows, 'model_version'));
    }

    public function testTheSameRunAgainAddsNothing(): void
    {
        $run = new NamedRun('night', null, null, []);
        $this->recordRun($run, ['churn_score']);
        self::assertSame(['churn_score' => 'repeated'], $this->recordRun($run, ['churn_score']));
        self::assertCount(1, $this->table->rows);
    }

    public function testALaterRunSupersedesAndRetiresWhatItOverwrote(): void
    {
        $this->storeRecords()->execute([self::record(['record_id' => 'other', 'entity_id' => 2])]);
        $this->recordRun(new NamedRun('monday', null, null, []), ['churn_score']);
        $this->recordRun(new NamedRun('tuesday', null, null, []), ['churn_score']);
        [$other, $monday, $tuesday] = $this->table->rows;
        self::assertSame($monday['record_id'], $tuesday['supersedes']);
        self::assertSame([null, $tuesday['generated_at'], null], array_column($this->table->rows, 'deleted_at'));
    }

    public function testWhatWasRetiredAndIsWrittenAgainByItsRunIsANewRecord(): void
    {
        $run = new NamedRun('night', null, null, []);
        $this->recordRun($run, ['churn_score']);
        $this->table->retire($this->table->rows[0]['record_id'], '2026-11-01 00:00:00');
        self::assertSame(['churn_score' => 'recorded'], $this->recordRun($run, ['churn_score']));
        self::assertCount(2, $this->table->rows);
        self::assertNull($this->table->rows[1]['supersedes']);
    }

    public function testARunMayNameItsAttributes(): void
    {
        $run = new NamedRun('night', '8', null, ['segment']);
        self::assertSame(['segment' => 'recorded'], $this->recordRun($run, ['churn_score', 'segment']));
    }

    public function testNothingConfiguredCostsNoQuery(): void
    {
        $config = $this->createStub(ScopeConfigInterface::class);
        foreach ([null, '', 'no JSON', '[1]', '{"a": "b"}'] as $value) {
            $config = $this->createStub(ScopeConfigInterface::class);
            $config->method('getValue')->willReturn($value);
            $recordRun = new RecordRun(new AiWrittenAttributes($config), $this->storeRecords(), $this->table);
            $run = new NamedRun('night', '8', null, []);
            self::assertSame([], $recordRun->execute($run, 'customer/1', 'customer', 1, ['churn_score'], null));
        }
        self::assertSame(0, $this->table->queries);
    }

    /**
     * @param string[] $written
     * @return array<string, string>
     */
    private function recordRun(NamedRun $run, array $written): array
    {
        $config = $this->createStub(ScopeConfigInterface::class);
        $config->method('getValue')->willReturn(json_encode([
            ['entity_type' => 'customer', 'attribute' => 'churn_score', 'model_id' => 'churn', 'model_version' => '7',
                'kind' => 'inferred', 'sensitivity' => 'high', 'categories' => 'profile, risk', 'elements' => ''],
            ['entity_type' => 'customer', 'attribute' => 'segment', 'model_id' => 'segments', 'model_version' => '',
                'kind' => 'derived', 'sensitivity' => 'low'],
            ['entity_type' => 'order', 'attribute' => 'churn_score', 'model_id' => 'wrong', 'model_version' => '1',
                'kind' => 'derived', 'sensitivity' => 'low'],
        ]));
        return (new RecordRun(new AiWrittenAttributes($config), $this->storeRecords(), $this->table))
            ->execute($run, 'customer/1', 'customer', 1, $written, 'integration/5');
    }
}
