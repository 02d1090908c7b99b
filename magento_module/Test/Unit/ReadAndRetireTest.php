<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use Magento\Framework\Exception\InputException;
use Magento\Framework\Exception\NoSuchEntityException;
use Tocsin\BreachNotification\Api\Data\DataMapEntryInterfaceFactory;
use Tocsin\BreachNotification\Api\Data\ProvenancePageInterfaceFactory;
use Tocsin\BreachNotification\Model\CheckRecord;
use Tocsin\BreachNotification\Model\GetDataMap;
use Tocsin\BreachNotification\Model\GetProvenanceOfCustomer;
use Tocsin\BreachNotification\Model\GetProvenanceOfOrder;
use Tocsin\BreachNotification\Model\ReadPage;
use Tocsin\BreachNotification\Model\RetireProvenance;

class ReadAndRetireTest extends ServiceTestCase
{
    protected function setUp(): void
    {
        parent::setUp();
        $this->storeRecords()->execute([
            self::record(['record_id' => 'a']),
            self::record(['record_id' => 'b', 'entity_type' => 'order', 'entity_id' => 21, 'confidence' => 0.5]),
            self::record(['record_id' => 'c', 'attribute' => 'segment']),
        ]);
    }

    public function testACustomersPagesHoldTheirOrdersToo(): void
    {
        $service = new GetProvenanceOfCustomer($this->readPage(), $this->table);
        $first = $service->execute(1, 2);
        $second = $service->execute(1, 2, 2);
        self::assertSame([['a', 'b'], 3], [$this->ids($first), $first->getTotalCount()]);
        self::assertSame([['c'], 3], [$this->ids($second), $second->getTotalCount()]);
        self::assertSame([0, []], [$service->execute(2)->getTotalCount(), $service->execute(2)->getItems()]);
    }

    public function testOfAnOrder(): void
    {
        $record = (new GetProvenanceOfOrder($this->readPage(), $this->table))->execute(21)->getItems()[0];
        self::assertSame(
            ['b', 'order/21', 1, 21, 0.5, ['profile'], [], null],
            [$record->getRecordId(), $record->getRoot(), $record->getCustomerId(), $record->getOrderId(),
                $record->getConfidence(), $record->getCategories(), $record->getElements(), $record->getDeletedAt()]
        );
    }

    public function testWhoIsDeletedButHasRecordsCanBeRead(): void
    {
        $this->table->rows[0]['customer_id'] = 77;
        $page = (new GetProvenanceOfCustomer($this->readPage(), $this->table))->execute(77);
        self::assertSame(['a'], $this->ids($page));
    }

    public function testNobody(): void
    {
        foreach ([GetProvenanceOfCustomer::class, GetProvenanceOfOrder::class] as $class) {
            try {
                (new $class($this->readPage(), $this->table))->execute(99);
                self::fail('found');
            } catch (NoSuchEntityException $refusal) {
                self::assertStringContainsString('99', $refusal->getMessage());
            }
        }
    }

    public function testPagesThatAreNone(): void
    {
        $service = new GetProvenanceOfCustomer($this->readPage(), $this->table);
        foreach ([[0, 1, 'pageSize'], [1001, 1, 'pageSize'], [10, 0, 'currentPage']] as [$size, $page, $named]) {
            try {
                $service->execute(1, $size, $page);
                self::fail('read');
            } catch (InputException $refusal) {
                self::assertStringContainsString($named, $refusal->getMessage());
            }
        }
    }

    public function testListsWrittenBySqlAreReadAsFarAsTheyCan(): void
    {
        $row = array_replace($this->table->rows[0], ['categories' => 'not', 'elements' => '["a", 1]', 'input_fields' => null]);
        $record = $this->makeRecord()->execute($row);
        self::assertSame([[], ['a'], []], [$record->getCategories(), $record->getElements(), $record->getInputFields()]);
    }

    public function testRetiringSetsTheTimeOnce(): void
    {
        $retire = new RetireProvenance($this->table, new CheckRecord(), $this->makeRecord());
        $record = $retire->execute('a', '2026-04-01T12:00:00.2+02:00');
        self::assertSame('2026-04-01T10:00:01Z', $record->getDeletedAt(), 'held during all of its last second');
        self::assertSame('2026-04-01T10:00:01Z', $retire->execute('a')->getDeletedAt());
        self::assertSame('2026-04-01T10:00:01Z', $retire->execute('a', '2026-04-01 10:00:01')->getDeletedAt());
        foreach (
            [
                ['a', '2026-04-02T10:00:00Z', 'is retired as of 2026-04-01 10:00:01 already'],
                ['c', '2026-02-28T10:00:00Z', 'lies before 2026-03-01 10:00:00'],
                ['c', gmdate('Y-m-d\TH:i:s\Z', time() + 86400), 'future'],
                ['c', 'soon', 'not a time such as'],
            ] as [$id, $at, $reason]
        ) {
            try {
                $retire->execute($id, $at);
                self::fail("retired as of $at");
            } catch (InputException $refusal) {
                self::assertStringContainsString($reason, $refusal->getMessage());
            }
        }
        self::assertNull($this->table->rows[2]['deleted_at']);
        self::assertNotNull($retire->execute('c')->getDeletedAt());
    }

    public function testNoRecordToRetire(): void
    {
        $this->expectException(NoSuchEntityException::class);
        (new RetireProvenance($this->table, new CheckRecord(), $this->makeRecord()))->execute('A');
    }

    public function testTheDataMap(): void
    {
        [$entry] = (new GetDataMap($this->table, new DataMapEntryInterfaceFactory()))->execute();
        self::assertSame(
            ['customer', 'churn_score', 'churn', '7', 3, 2, 2, 0, '2026-03-01T10:00:00Z', '2026-04-01T10:00:00Z'],
            [$entry->getEntityType(), $entry->getAttribute(), $entry->getModelId(), $entry->getModelVersion(),
                $entry->getRecordCount(), $entry->getHeldCount(), $entry->getCustomerCount(), $entry->getOrderCount(),
                $entry->getFirstGeneratedAt(), $entry->getLastGeneratedAt()]
        );
    }

    private function readPage(): ReadPage
    {
        return new ReadPage($this->table, $this->makeRecord(), new ProvenancePageInterfaceFactory());
    }

    /**
     * @return string[]
     */
    private function ids($page): array
    {
        return array_map(static fn ($record) => $record->getRecordId(), $page->getItems());
    }
}
