<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use Magento\Framework\Exception\InputException;
use Tocsin\BreachNotification\Api\Data\ProvenanceReceiptInterfaceFactory;
use Tocsin\BreachNotification\Model\RecordProvenance;

class RecordProvenanceTest extends ServiceTestCase
{
    public function testARecordIsStoredAsTheDatabaseKeepsIt(): void
    {
        $receipt = $this->service()->execute(self::record([
            'entity_id' => '1', 'model_version' => 7, 'confidence' => '0.83004', 'generated_at' => '2026-03-01T12:00:00.9+02:00',
            'elements' => '["income_band", "income_band"]', 'run_id' => '', 'input_fields' => ['orders', 'große Straße'],
        ]));
        self::assertSame(['r-1', 'recorded'], [$receipt->getRecordId(), $receipt->getStatus()]);
        self::assertCount(1, $this->table->rows);
        $row = $this->table->rows[0];
        self::assertSame(
            [
                'record_id' => 'r-1', 'root' => 'customer/1', 'customer_id' => 1, 'order_id' => null,
                'entity_type' => 'customer', 'entity_id' => 1, 'attribute' => 'churn_score', 'model_id' => 'churn',
                'model_version' => '7', 'run_id' => null, 'dataset_version' => null,
                'generated_at' => '2026-03-01 10:00:00', 'supersedes' => null, 'kind' => 'inferred',
                'confidence' => '0.8300', 'sensitivity' => 'high', 'categories' => '["profile"]',
                'elements' => '["income_band"]', 'source_system' => null, 'storage_location' => null,
                'input_fields' => '["orders","große Straße"]', 'legal_basis' => null,
            ],
            array_diff_key($row, ['deleted_at' => 0, 'created_at' => 0])
        );
    }

    public function testWhomItIsAboutFollowsFromTheEntity(): void
    {
        $this->service()->execute(self::record(['record_id' => 'a', 'entity_type' => 'customer_address', 'entity_id' => 12]));
        $this->service()->execute(self::record(['record_id' => 'b', 'entity_type' => 'order', 'entity_id' => 21]));
        $this->service()->execute(self::record(['record_id' => 'c', 'entity_type' => 'order', 'entity_id' => 22]));
        $this->service()->execute(self::record(['record_id' => 'd', 'entity_type' => 'chat', 'entity_id' => 5, 'customer_id' => 3]));
        $this->service()->execute(self::record(['record_id' => 'e', 'entity_type' => 'chat', 'entity_id' => 5, 'order_id' => 21]));
        self::assertSame(
            [
                ['customer/2', 2, null], ['order/21', 1, 21], ['order/22', null, 22], ['customer/3', 3, null],
                ['order/21', 1, 21],
            ],
            array_map(static fn ($row) => [$row['root'], $row['customer_id'], $row['order_id']], $this->table->rows)
        );
    }

    public function testTheSameAgainIsARepeat(): void
    {
        $this->service()->execute(self::record(['confidence' => 0.5]));
        $this->table->retire('r-1', '2026-05-01 00:00:00');
        $receipt = $this->service()->execute(self::record(['confidence' => '0.50', 'elements' => [], 'root' => 'customer/1']));
        self::assertSame('repeated', $receipt->getStatus());
        self::assertCount(1, $this->table->rows);
        self::assertSame('2026-05-01 00:00:00', $this->table->rows[0]['deleted_at']);
    }

    /**
     * @dataProvider otherContents
     */
    public function testOtherContentUnderTheSameIdIsRefused(array $otherwise, string $named): void
    {
        $this->service()->execute(self::record());
        $before = $this->table->rows;
        self::assertStringContainsString("\"record_id\" is taken by a record with another $named", $this->refusal($otherwise)[0]);
        self::assertSame($before, $this->table->rows);
    }

    public function otherContents(): array
    {
        return [
            'attribute' => [['attribute' => 'other'], 'attribute'],
            'version' => [['model_version' => '7.0'], 'model_version'],
            'list' => [['categories' => ['profile', 'more']], 'categories'],
            'time' => [['generated_at' => '2026-03-01T10:00:01Z'], 'generated_at'],
            'person' => [['entity_id' => 2], 'entity_id'],
            'optional' => [['legal_basis' => 'consent'], 'legal_basis'],
            'case of the id' => [['record_id' => 'R-1'], 'record_id (in upper or lower case)'],
        ];
    }

    public function testWithoutAnIdTheContentIsTheId(): void
    {
        $first = $this->service()->execute(self::record(['record_id' => null]));
        $again = $this->service()->execute(self::record(['record_id' => null]));
        $other = $this->service()->execute(self::record(['record_id' => null, 'entity_id' => 2]));
        self::assertSame([$first->getRecordId(), 'repeated'], [$again->getRecordId(), $again->getStatus()]);
        self::assertSame('recorded', $other->getStatus());
        self::assertMatchesRegularExpression('/\A[0-9a-f]{64}\z/', $first->getRecordId());
    }

    public function testWhoComesSecondInARaceIsARepeatOrIsRefused(): void
    {
        $this->service()->execute(self::record());
        $row = array_diff_key($this->table->rows[0], ['deleted_at' => 0, 'created_at' => 0]);
        $this->table->rows = [];
        $this->table->rival = [$row];
        self::assertSame('repeated', $this->service()->execute(self::record())->getStatus());
        $this->table->rows = [];
        $this->table->rival = [['attribute' => 'other'] + $row];
        self::assertStringContainsString('another attribute', $this->refusal([])[0]);
        self::assertCount(1, $this->table->rows);
    }

    public function testEveryFaultIsNamedAtOnceAndNothingIsWritten(): void
    {
        $refusal = $this->refusal(['model_id' => '', 'kind' => 'guessed', 'modelversion' => '7']);
        self::assertSame(
            [
                '"modelversion" is no field of a record',
                '"model_id" is needed',
                '"kind" is "guessed"; it must be one of synthetic, derived, inferred, real',
            ],
            $refusal
        );
        self::assertSame([], $this->table->rows);
    }

    /**
     * @dataProvider faults
     */
    public function testBadInputIsRefusedWithFieldAndReason(array $otherwise, string $field, string $reason): void
    {
        $refusal = $this->refusal($otherwise);
        self::assertCount(1, $refusal, implode("\n", $refusal));
        self::assertStringStartsWith("\"$field\" ", $refusal[0]);
        self::assertStringContainsString($reason, $refusal[0]);
        self::assertSame([], $this->table->rows);
    }

    public function faults(): array
    {
        $tomorrow = gmdate('Y-m-d\TH:i:s\Z', time() + 86400);
        return [
            'long attribute' => [['attribute' => str_repeat('a', 256)], 'attribute', 'has 256 characters; 255 are the most'],
            'long model' => [['model_id' => str_repeat('ä', 129)], 'model_id', 'has 129 characters; 128 are the most'],
            'long run' => [['run_id' => str_repeat('a', 129)], 'run_id', '128 are the most'],
            'long basis' => [['legal_basis' => str_repeat('a', 65)], 'legal_basis', '64 are the most'],
            'long place' => [['storage_location' => str_repeat('a', 256)], 'storage_location', '255 are the most'],
            'long id' => [['record_id' => str_repeat('a', 65)], 'record_id', '1 to 64 characters'],
            'slash in id' => [['record_id' => 'a/b'], 'record_id', '1 to 64 characters'],
            'supersedes itself' => [['supersedes' => 'r-1'], 'supersedes', 'names the record itself'],
            'emoji' => [['run_id' => "night \u{1F319}"], 'run_id', 'such as emoji'],
            'control character' => [['run_id' => "a\nb"], 'run_id', 'control characters'],
            'no UTF-8' => [['run_id' => "\xff"], 'run_id', 'is no text'],
            'list as text' => [['model_id' => ['churn']], 'model_id', 'is no text'],
            'unknown customer' => [['entity_id' => 99], 'entity_id', 'is 99; the store has no such customer'],
            'unknown address' => [['entity_type' => 'customer_address', 'entity_id' => 99], 'entity_id', 'no such customer address'],
            'unknown order' => [['entity_type' => 'order', 'entity_id' => 99], 'entity_id', 'no such order'],
            'unknown customer of another thing' => [
                ['entity_type' => 'chat', 'customer_id' => 99], 'customer_id', 'no such customer',
            ],
            'nobody' => [['entity_type' => 'chat'], 'customer_id', 'is needed (or order_id)'],
            'address of another' => [
                ['entity_type' => 'customer_address', 'entity_id' => 12, 'customer_id' => 1], 'customer_id', 'belongs to 2',
            ],
            'order of another' => [
                ['entity_type' => 'chat', 'customer_id' => 2, 'order_id' => 21], 'customer_id', 'order 21 is not theirs',
            ],
            'another root' => [['root' => 'customer/2'], 'root', 'the record is about customer/1'],
            'root of no shape' => [['root' => 'customer/01'], 'root', 'must be customer/<id> or order/<id>'],
            'no number' => [['entity_id' => '1a'], 'entity_id', 'not a whole number above 0'],
            'negative' => [['entity_id' => -1], 'entity_id', 'not a whole number above 0'],
            'truth as number' => [['entity_id' => true], 'entity_id', 'not a whole number above 0'],
            'too great' => [['entity_id' => 4294967296], 'entity_id', 'not a whole number above 0'],
            'entity type' => [['entity_type' => 'Customer'], 'entity_type', 'must be customer, customer_address, order'],
            'unknown kind' => [['kind' => 'made up'], 'kind', 'one of synthetic, derived, inferred, real'],
            'no kind' => [['kind' => null], 'kind', 'is missing'],
            'unknown sensitivity' => [['sensitivity' => 'HIGH'], 'sensitivity', 'one of low, medium, high, critical'],
            'future' => [['generated_at' => $tomorrow], 'generated_at', 'lies in the future'],
            'no time' => [['generated_at' => null], 'generated_at', 'is needed'],
            'date alone' => [['generated_at' => '2026-03-01'], 'generated_at', 'not a time such as'],
            'no such day' => [['generated_at' => '2026-02-30T10:00:00Z'], 'generated_at', 'not a time such as'],
            'no such hour' => [['generated_at' => '2026-02-03T24:00:00Z'], 'generated_at', 'not a time such as'],
            'no such zone' => [['generated_at' => '2026-02-03T10:00:00+99:00'], 'generated_at', 'not a time such as'],
            'relative time' => [['generated_at' => 'yesterday'], 'generated_at', 'not a time such as'],
            'seconds' => [['generated_at' => 1772359200], 'generated_at', 'not a time such as'],
            'zero date' => [['generated_at' => '0000-00-00 00:00:00'], 'generated_at', 'not a time such as'],
            'before computers' => [['generated_at' => '1969-12-31T23:59:59Z'], 'generated_at', 'before 1970'],
            'confidence above 1' => [['confidence' => 1.01], 'confidence', 'not a number from 0 to 1'],
            'confidence NAN' => [['confidence' => 'nan'], 'confidence', 'not a number from 0 to 1'],
            'invalid JSON' => [['categories' => '["a"'], 'categories', 'is no JSON list of texts'],
            'JSON text' => [['categories' => '"a"'], 'categories', 'is no JSON list of texts'],
            'object' => [['elements' => ['a' => 'b']], 'elements', 'is no JSON list of texts'],
            'nested list' => [['elements' => ['a', ['b']]], 'elements', 'has at place 1 something other'],
            'numbers' => [['input_fields' => [1]], 'input_fields', 'has at place 0 something other'],
            'long word' => [['categories' => [str_repeat('a', 129)]], 'categories', '1 to 128 characters'],
            'many words' => [['categories' => array_map('strval', range(1, 101))], 'categories', '100 are the most'],
            'deletion' => [['deleted_at' => '2026-04-01T00:00:00Z'], 'deleted_at', 'retiring'],
            'creation' => [['created_at' => '2026-04-01T00:00:00Z'], 'created_at', 'set by the store'],
            'unknown field' => [['model' => 'churn'], 'model', 'is no field of a record'],
        ];
    }

    public function testARecordThatIsNone(): void
    {
        foreach (['text', 7, null, [1, 2]] as $record) {
            try {
                $this->service()->execute($record);
                self::fail('taken');
            } catch (InputException $refusal) {
                self::assertStringContainsString('"record" is no object', $refusal->getErrors()[0]->getMessage());
            }
        }
    }

    public function testWhatReadingGaveMayBeSentAgain(): void
    {
        $this->service()->execute(self::record(['confidence' => 0.25, 'run_id' => 'night']));
        $read = $this->makeRecord()->execute($this->table->rows[0]);
        self::assertSame('repeated', $this->service()->execute($read)->getStatus());
        self::assertSame('2026-03-01T10:00:00Z', $read->getGeneratedAt());
    }

    private function service(): RecordProvenance
    {
        return new RecordProvenance($this->storeRecords(), new ProvenanceReceiptInterfaceFactory());
    }

    /**
     * @return string[]
     */
    private function refusal(array $otherwise): array
    {
        try {
            $this->service()->execute(self::record($otherwise));
        } catch (InputException $refusal) {
            return array_map(static fn ($error) => $error->getMessage(), $refusal->getErrors());
        }
        self::fail('The record was taken.');
    }
}
