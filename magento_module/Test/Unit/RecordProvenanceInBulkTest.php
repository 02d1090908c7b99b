<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use Magento\Framework\Exception\InputException;
use Tocsin\BreachNotification\Api\Data\BulkReceiptInterface;
use Tocsin\BreachNotification\Api\Data\BulkReceiptInterfaceFactory;
use Tocsin\BreachNotification\Api\Data\FieldErrorInterfaceFactory;
use Tocsin\BreachNotification\Api\Data\RefusedRecordInterfaceFactory;
use Tocsin\BreachNotification\Model\RecordProvenanceInBulk;

class RecordProvenanceInBulkTest extends ServiceTestCase
{
    public function testTheGoodAreStoredAndTheBadReportedByPosition(): void
    {
        $receipt = $this->bulk([
            self::record(['record_id' => 'a']),
            self::record(['record_id' => 'b', 'entity_id' => 99]),
            'no record',
            self::record(['record_id' => 'c', 'kind' => 'x', 'model_id' => '']),
            self::record(['record_id' => 'a']),
            self::record(['record_id' => 'a', 'attribute' => 'other']),
            self::record(['record_id' => 'd', 'entity_id' => 2]),
        ]);
        self::assertSame([2, 1], [$receipt->getRecordedCount(), $receipt->getRepeatedCount()]);
        self::assertSame(['a', 'd'], array_column($this->table->rows, 'record_id'));
        $refused = [];
        foreach ($receipt->getRefused() as $one) {
            $refused[$one->getPosition()] = [
                $one->getRecordId(),
                array_map(static fn ($error) => $error->getField(), $one->getErrors()),
            ];
        }
        self::assertSame(
            [1 => ['b', ['entity_id']], 2 => [null, ['record']], 3 => ['c', ['model_id', 'kind']], 5 => ['a', ['record_id']]],
            $refused
        );
    }

    public function testAThousandAreOneWrite(): void
    {
        $records = [];
        for ($number = 0; $number < 1000; $number++) {
            $records[] = self::record(['record_id' => "r-$number", 'entity_id' => $number % 9 + 1]);
        }
        $receipt = $this->bulk($records);
        self::assertSame([1000, [], 1], [$receipt->getRecordedCount(), $receipt->getRefused(), $this->table->queries]);
        $again = $this->bulk($records);
        self::assertSame([0, 1000, 1000], [$again->getRecordedCount(), $again->getRepeatedCount(), count($this->table->rows)]);
    }

    /**
     * @dataProvider noLists
     */
    public function testACallThatIsNoListOfUpToAThousandStoresNothing($records, string $reason): void
    {
        try {
            $this->bulk($records);
            self::fail('taken');
        } catch (InputException $refusal) {
            self::assertStringContainsString($reason, $refusal->getMessage());
        }
        self::assertSame([], $this->table->rows);
    }

    public function noLists(): array
    {
        return [
            'too many' => [array_fill(0, 1001, self::record()), 'has 1001 records; 1000 are the most'],
            'none' => [[], 'a list of at least one'],
            'one record' => [self::record(), 'a list of at least one'],
            'text' => ['[]', 'a list of at least one'],
        ];
    }

    private function bulk($records): BulkReceiptInterface
    {
        return (new RecordProvenanceInBulk(
            $this->storeRecords(),
            new BulkReceiptInterfaceFactory(),
            new RefusedRecordInterfaceFactory(),
            new FieldErrorInterfaceFactory()
        ))->execute($records);
    }
}
