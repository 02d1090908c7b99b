<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use PHPUnit\Framework\TestCase;
use Tocsin\BreachNotification\Model\NamedRun;

class NamedRunTest extends TestCase
{
    public function testHeadersNameARun(): void
    {
        $run = $this->of([], [
            'X-Tocsin-Run' => ' night ', 'X-Tocsin-Model-Version' => '8', 'X-Tocsin-Attributes' => 'churn_score, segment,',
        ]);
        self::assertSame(
            ['night', '8', null, ['churn_score', 'segment']],
            [$run->runId, $run->modelVersion, $run->datasetVersion, $run->attributes]
        );
    }

    /**
     * @dataProvider bodies
     */
    public function testTheExtensionAttributeGoesBeforeTheHeaders(array $entity): void
    {
        $run = $this->of($entity, ['X-Tocsin-Run' => 'other', 'X-Tocsin-Model-Version' => '1']);
        self::assertSame(
            ['night', null, 'd3', ['segment']],
            [$run->runId, $run->modelVersion, $run->datasetVersion, $run->attributes]
        );
    }

    public function bodies(): array
    {
        return [
            'snake case' => [['extension_attributes' => ['tocsin_run' => [
                'run_id' => 'night', 'dataset_version' => 'd3', 'attributes' => ['segment', ['x'], ''],
            ]]]],
            'camel case' => [['extensionAttributes' => ['tocsinRun' => [
                'runId' => 'night', 'datasetVersion' => 'd3', 'attributes' => ['segment'],
            ]]]],
        ];
    }

    public function testNoRun(): void
    {
        self::assertNull($this->of([], []));
        self::assertNull($this->of([], ['X-Tocsin-Model-Version' => '8', 'X-Tocsin-Run' => ' ']));
        self::assertNull($this->of(['extension_attributes' => ['tocsin_run' => ['run_id' => ['x']]]], []));
        self::assertNull($this->of(['extension_attributes' => 'x'], []));
    }

    public function testWhatARequestWrites(): void
    {
        self::assertSame(
            ['id', 'first_name', 'prefix', 'churn_score', 'segment'],
            NamedRun::written([
                'id' => 1, 'firstName' => 'A', 'prefix' => '', 'suffix' => null,
                'custom_attributes' => [
                    ['attribute_code' => 'churn_score', 'value' => '0.8'],
                    ['attributeCode' => 'segment', 'value' => '0'],
                    ['attribute_code' => 'taken_away', 'value' => null],
                    'nonsense',
                ],
            ])
        );
        self::assertSame(
            ['churn_score', 'tags'],
            NamedRun::written(['customAttributes' => ['churn_score' => 0.8, 'tags' => ['a', 'b'], 'none' => null]])
        );
    }

    private function of(array $entity, array $headers): ?NamedRun
    {
        return NamedRun::of($entity, static fn (string $name) => $headers[$name] ?? null);
    }
}
