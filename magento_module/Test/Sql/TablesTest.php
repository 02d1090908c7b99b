<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Sql;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\DB\Adapter\DuplicateException;
use Magento\Framework\FlagManager;
use Magento\Framework\Mview\View\CollectionFactory;
use PHPUnit\Framework\TestCase;
use Tocsin\BreachNotification\Model\AccountNotice\GetAccountNotices;
use Tocsin\BreachNotification\Model\Capture\FindTriggers;
use Tocsin\BreachNotification\Model\Capture\GetCaptureStatus;
use Tocsin\BreachNotification\Model\Capture\ListViews;
use Tocsin\BreachNotification\Model\Capture\SubscribeViews;
use Tocsin\BreachNotification\Model\CheckRecord;
use Tocsin\BreachNotification\Model\ResolveSubjects;
use Tocsin\BreachNotification\Model\ResourceModel\ProvenanceTable;
use Tocsin\BreachNotification\Model\ResourceModel\SummaryTable;
use Tocsin\BreachNotification\Model\StoreRecords;
use Tocsin\BreachNotification\Model\SummarizeProvenance;
use Tocsin\BreachNotification\Test\Unit\FakeView;

/**
 * The module's SQL on a real MariaDB with Magento's tables, triggers and session settings.
 */
class TablesTest extends TestCase
{
    private const CUSTOMERS = 1000;
    private const CHANGELOGS = [
        'tocsin_customer_cl', 'tocsin_customer_address_cl', 'tocsin_customer_eav_cl', 'tocsin_order_cl',
        'tocsin_provenance_cl',
    ];

    private PdoConnection $connection;
    private ProvenanceTable $table;
    private StoreRecords $storeRecords;

    protected function setUp(): void
    {
        $this->connection = PdoConnection::open();
        $resource = new ResourceConnection($this->connection);
        $this->table = new ProvenanceTable($resource);
        $this->storeRecords = new StoreRecords(new CheckRecord(), new ResolveSubjects($this->table), $this->table);
        $this->sql('SET foreign_key_checks = 0'); // store view 0 is the admin's, and not needed here
        $this->sql('DELETE FROM tocsin_provenance');
        $this->sql('DELETE FROM sales_order');
        $this->sql('DELETE FROM customer_entity');
        $this->sql('DELETE FROM customer_address_entity');
        $this->sql('DELETE FROM tocsin_customer_summary');
        $this->sql(
            "INSERT INTO customer_entity (entity_id, website_id, email, firstname, lastname)"
            . " SELECT seq, 1, CONCAT(seq, '@shop.example.com'), 'P', 'N' FROM seq_1_to_" . self::CUSTOMERS
        );
        $this->sql("INSERT INTO customer_address_entity (entity_id, parent_id, city, country_id, firstname, lastname, street)"
            . " VALUES (11, 2, 'C', 'DE', 'P', 'N', 'S')");
        $this->sql('INSERT INTO sales_order (entity_id, customer_id) VALUES (21, 1), (22, NULL)');
        $this->sql('SET foreign_key_checks = 1');
    }

    public function testAChangeIsToldWhenMagentosNumbersAreUsedUp(): void
    {
        $resource = new ResourceConnection($this->connection);
        $view = new FakeView('tocsin_customer', 'customer_entity', true, prefix: '');
        $factory = $this->createStub(CollectionFactory::class);
        $factory->method('create')->willReturn([$view]);
        $views = new ListViews($factory);
        $find = new FindTriggers($resource);
        $this->sql('DELETE FROM tocsin_customer_cl');
        $this->sql('ALTER TABLE tocsin_customer_cl MODIFY version_id INT UNSIGNED NOT NULL AUTO_INCREMENT');
        $this->sql('ALTER TABLE tocsin_customer_cl AUTO_INCREMENT = 4294967295');
        $this->sql("UPDATE customer_entity SET email = 'last@shop.example.com' WHERE entity_id = 1");
        $this->sql("UPDATE customer_entity SET email = 'lost@shop.example.com' WHERE entity_id = 2");
        self::assertSame([[1]], $this->told('tocsin_customer_cl'));
        $said = (new GetCaptureStatus($views, $find, $resource))->execute()['problems'];
        self::assertStringContainsString('tocsin_customer_cl has 0 numbers left', implode($said));

        $done = (new SubscribeViews($views, $find, $resource))->execute();
        self::assertContains('tocsin_customer: gave its changelog numbers that do not run out', $done);
        self::assertContains('tocsin_customer: made trigger trg_customer_entity anew', $done);
        $this->sql('DROP TRIGGER trg_customer_entity');
        $this->sql("UPDATE customer_entity SET email = 'seen@shop.example.com' WHERE entity_id = 3");
        self::assertSame([[1], [3]], $this->told('tocsin_customer_cl'));
        self::assertSame('4294967296', (string)$this->connection->fetchOne('SELECT MAX(version_id) FROM tocsin_customer_cl'));
        $said = (new GetCaptureStatus($views, $find, $resource))->execute()['problems'];
        self::assertStringNotContainsString('numbers left', implode($said));
        $this->sql('DELETE FROM tocsin_customer_cl');
    }

    public function testWhatIsStoredIsWhatWasGiven(): void
    {
        $full = [
            'record_id' => 'full', 'entity_type' => 'order', 'entity_id' => 21, 'attribute' => str_repeat('ä', 255),
            'model_id' => str_repeat('m', 128), 'model_version' => '7', 'run_id' => 'r', 'dataset_version' => 'd',
            'generated_at' => '2026-03-01T10:00:00Z', 'supersedes' => str_repeat('s', 64), 'kind' => 'synthetic',
            'confidence' => 0.12345, 'sensitivity' => 'critical', 'categories' => ['größe'], 'elements' => ['e'],
            'source_system' => 's', 'storage_location' => str_repeat('l', 255), 'input_fields' => ['i'],
            'legal_basis' => str_repeat('b', 64),
        ];
        self::assertSame([[], 'recorded'], $this->outcome($full));
        $row = $this->table->byRecordId(['FULL'])['full'];
        self::assertSame(
            ['order/21', '1', '21', str_repeat('ä', 255), str_repeat('s', 64), '0.1235', '["größe"]', '2026-03-01 10:00:00', null],
            array_map(static fn ($value) => $value === null ? null : (string)$value, [
                $row['root'], $row['customer_id'], $row['order_id'], $row['attribute'], $row['supersedes'],
                $row['confidence'], $row['categories'], $row['generated_at'], $row['deleted_at'],
            ])
        );
        self::assertSame([[], 'repeated'], $this->outcome($full));
        [[$error], $status] = $this->outcome(['confidence' => 0.1] + $full);
        self::assertNull($status);
        self::assertStringContainsString('another confidence', $error['reason']);
    }

    public function testSubjectsAreFoundInTheStore(): void
    {
        self::assertSame([[], 'recorded'], $this->outcome(['entity_type' => 'customer_address', 'entity_id' => 11]));
        self::assertSame([[], 'recorded'], $this->outcome(['record_id' => 'b', 'entity_type' => 'order', 'entity_id' => 22]));
        self::assertSame(
            [['customer/2', '2', null], ['order/22', null, '22']],
            array_map(static fn ($row) => array_map(
                static fn ($value) => $value === null ? null : (string)$value,
                array_values($row)
            ), $this->connection->fetchAll('SELECT root, customer_id, order_id FROM tocsin_provenance ORDER BY id'))
        );
        self::assertSame('entity_id', $this->outcome(['entity_id' => 999999])[0][0]['field']);
    }

    public function testAThousandAreStoredAtOnceAndEachIsToldToTheRelay(): void
    {
        $records = [];
        for ($customer = 1; $customer <= 1000; $customer++) {
            $records[] = $this->record(['record_id' => "r-$customer", 'entity_id' => $customer]);
        }
        $this->sql('DELETE FROM tocsin_provenance_cl');
        self::assertSame(['recorded'], array_unique(array_column($this->storeRecords->execute($records), 'status')));
        self::assertSame('1000', (string)$this->connection->fetchOne(
            "SELECT COUNT(DISTINCT root) FROM tocsin_provenance_cl WHERE record_id LIKE 'r-%' AND root LIKE 'customer/%'"
        ));
    }

    public function testAFailedWriteLeavesNothingAndNoOpenTransaction(): void
    {
        $this->outcome(['record_id' => 'taken']);
        $row = array_diff_key($this->table->byRecordId(['taken'])['taken'], ['created_at' => 0, 'deleted_at' => 0]);
        try {
            $this->table->add([['record_id' => 'new'] + $row, ['record_id' => 'TAKEN'] + $row]);
            self::fail('stored');
        } catch (DuplicateException $fault) {
            self::assertFalse($this->connection->inTransaction());
        }
        self::assertSame(['taken'], array_keys($this->table->byRecordId(['new', 'taken'])));
    }

    public function testRetiringSetsTheTimeOnceAndIsToldToTheRelay(): void
    {
        $this->outcome([]);
        $this->sql('DELETE FROM tocsin_provenance_cl');
        self::assertTrue($this->table->retire('r-1', '2026-04-01 00:00:00'));
        self::assertFalse($this->table->retire('r-1', '2026-05-01 00:00:00'));
        self::assertSame('2026-04-01 00:00:00', $this->table->byRecordId(['r-1'])['r-1']['deleted_at']);
        self::assertSame('1', (string)$this->connection->fetchOne('SELECT COUNT(*) FROM tocsin_provenance_cl'));
    }

    public function testNewestHeldAndPages(): void
    {
        foreach (['a', 'b', 'c'] as $id) {
            $this->outcome(['record_id' => $id]);
        }
        $this->table->retire('c', '2026-04-01 00:00:00');
        self::assertSame(['churn_score' => 'b'], $this->table->newestHeld('customer/1', 'customer', 1, ['churn_score', 'x']));
        $this->outcome(['record_id' => 'elsewhere', 'entity_id' => 2]);
        $this->outcome(['record_id' => 'later', 'generated_at' => '2026-03-03T00:00:00Z']);
        self::assertSame(2, $this->table->retireReplaced('customer/1', 'customer', 1, 'churn_score', 'd', '2026-03-02 00:00:00'));
        self::assertSame(
            ['2026-03-02 00:00:00', '2026-03-02 00:00:00', '2026-04-01 00:00:00', null, null],
            $this->connection->fetchCol('SELECT deleted_at FROM tocsin_provenance ORDER BY id')
        );
        $this->sql("DELETE FROM tocsin_provenance WHERE record_id = 'later'");
        self::assertSame(['c'], array_column($this->table->page('customer_id', 1, 2, 2), 'record_id'));
        self::assertSame(3, $this->table->countOf('customer_id', 1));
        self::assertCount(4, $this->table->allOf('customer_id', [1, 2]));
    }

    public function testTheDataMapCounts(): void
    {
        $this->outcome(['record_id' => 'a']);
        $this->outcome(['record_id' => 'b', 'entity_id' => 2, 'generated_at' => '2026-03-02T10:00:00Z']);
        $this->outcome(['record_id' => 'c', 'model_version' => '8']);
        $this->outcome(['record_id' => 'd', 'entity_type' => 'order', 'entity_id' => 22]);
        $this->table->retire('a', '2026-04-01 00:00:00');
        self::assertSame(
            [
                'customer|churn_score|churn|7|2|1|2|0|2026-03-01 10:00:00|2026-03-02 10:00:00',
                'customer|churn_score|churn|8|1|1|1|0|2026-03-01 10:00:00|2026-03-01 10:00:00',
                'order|churn_score|churn|7|1|1|0|1|2026-03-01 10:00:00|2026-03-01 10:00:00',
            ],
            array_map(static fn ($row) => implode('|', $row), $this->table->dataMap())
        );
    }

    public function testAThousandSummariesLeaveNoChangeForTheRelay(): void
    {
        $summarize = $this->summarize();
        $records = [];
        for ($customer = 1; $customer <= self::CUSTOMERS; $customer++) {
            $records[] = $this->record(['record_id' => "r-$customer", 'entity_id' => $customer]);
        }
        $this->storeRecords->execute($records);
        $this->outcome(['record_id' => 'higher', 'sensitivity' => 'critical', 'model_id' => 'alpha', 'model_version' => '1']);
        $this->outcome(['record_id' => 'real', 'entity_id' => 3, 'kind' => 'real', 'sensitivity' => 'critical']);
        foreach (self::CHANGELOGS as $changelog) {
            $this->sql("DELETE FROM $changelog");
        }
        self::assertSame(self::CUSTOMERS, $summarize->execute());
        self::assertSame((string)(3 * self::CUSTOMERS), (string)$this->connection->fetchOne(
            'SELECT COUNT(*) FROM tocsin_customer_summary'
        ));
        self::assertSame(['1', 'alpha@1, churn@7', '704'], $this->summary(1));
        self::assertSame(['1', 'churn@7', '703'], $this->summary(3));
        self::assertSame(0, $summarize->execute(), 'only what differs is written');
        foreach (self::CHANGELOGS as $changelog) {
            self::assertSame('0', (string)$this->connection->fetchOne("SELECT COUNT(*) FROM $changelog"), $changelog);
        }
        // the changelogs are not just deaf
        $this->sql("INSERT INTO customer_entity_text (attribute_id, entity_id, value) VALUES (603, 1, 'x')");
        self::assertSame('1', (string)$this->connection->fetchOne('SELECT COUNT(*) FROM tocsin_customer_eav_cl'));
    }

    public function testASummaryFollowsWhatIsRetiredAndWhatSqlTookAway(): void
    {
        $summarize = $this->summarize();
        $this->outcome(['record_id' => 'a', 'sensitivity' => 'low']);
        $this->outcome(['record_id' => 'b', 'entity_id' => 2]);
        $this->outcome(['record_id' => 'c', 'entity_id' => 3]);
        self::assertSame(3, $summarize->execute());
        $this->table->retire('a', gmdate('Y-m-d H:i:s'));
        $this->sql("DELETE FROM tocsin_provenance WHERE record_id = 'b'");
        $this->sql('DELETE FROM customer_entity WHERE entity_id = 3');
        self::assertSame(2, $summarize->execute());
        self::assertSame(['0', '', ''], $this->summary(1));
        self::assertSame(['0', '', ''], $this->summary(2));
        self::assertSame([], $this->summary(3));
    }

    public function testRecordsOfADeletedCustomerHinderNobody(): void
    {
        $this->outcome(['record_id' => 'a', 'entity_id' => 3]);
        $this->outcome(['record_id' => 'b', 'entity_id' => 4]);
        $this->sql('DELETE FROM customer_entity WHERE entity_id = 3');
        self::assertSame(1, $this->summarize()->execute());
    }

    /**
     * The bridge writes notices as utf8mb4; Magento's connections, and this one, say SET NAMES utf8.
     */
    public function testANoticeIsShownAsItWasWrittenAlsoCharactersOfFourBytes(): void
    {
        $texts = ['Größe 🔔 𠮷野家', "Dear Ünal 👩‍👧,\n\nzł 100 €"];
        $this->sql('DELETE FROM tocsin_account_notice');
        $this->sql('INSERT INTO tocsin_account_notice (notice_id, customer_id, incident_id, title, body, locale, created_at)'
            . " VALUES ('n', 1, 'INC-2026-0001', CONVERT(X'" . bin2hex($texts[0]) . "' USING utf8mb4),"
            . " CONVERT(X'" . bin2hex($texts[1]) . "' USING utf8mb4), 'de_DE', '2026-03-01 10:00:00')");
        [$notice] = (new GetAccountNotices(new ResourceConnection($this->connection)))->execute(1);
        self::assertSame($texts, [$notice->getTitle(), $notice->getBody()]);
    }

    private function summarize(): SummarizeProvenance
    {
        $this->sql("REPLACE INTO eav_entity_type (entity_type_id, entity_type_code, entity_model) VALUES (1, 'customer', 'x')");
        foreach (['eav_attribute', 'eav_attribute_option', 'eav_attribute_option_value'] as $table) {
            $this->sql("DELETE FROM $table");
        }
        foreach (array_merge(SummaryTable::ATTRIBUTES, ['other']) as $place => $code) {
            $this->sql("INSERT INTO eav_attribute (attribute_id, entity_type_id, attribute_code, backend_type)"
                . sprintf(" VALUES (%d, 1, '%s', 'text')", 600 + $place, $code));
        }
        $this->sql('SET foreign_key_checks = 0');
        $options = [701 => 'Low', 702 => 'Medium', 703 => 'High', 704 => 'Critical'];
        foreach ($options as $id => $label) {
            $this->sql("INSERT INTO eav_attribute_option (option_id, attribute_id) VALUES ($id, 602)");
            $this->sql("INSERT INTO eav_attribute_option_value (option_id, store_id, value) VALUES ($id, 0, '$label')");
        }
        $this->sql('SET foreign_key_checks = 1');
        return new SummarizeProvenance(new SummaryTable(new ResourceConnection($this->connection)), new FlagManager());
    }

    /**
     * @return string[]
     */
    private function summary(int $customerId): array
    {
        return $this->connection->fetchCol(
            "SELECT value FROM tocsin_customer_summary WHERE entity_id = $customerId ORDER BY attribute_id"
        );
    }

    private function record(array $otherwise): array
    {
        return array_replace([
            'record_id' => 'r-1', 'entity_type' => 'customer', 'entity_id' => 1, 'attribute' => 'churn_score',
            'model_id' => 'churn', 'model_version' => '7', 'generated_at' => '2026-03-01T10:00:00Z', 'kind' => 'inferred',
            'sensitivity' => 'high',
        ], $otherwise);
    }

    private function outcome(array $otherwise): array
    {
        [$outcome] = $this->storeRecords->execute([$this->record($otherwise)]);
        return [$outcome['errors'], $outcome['status']];
    }

    /**
     * @return array<int, int[]>
     */
    private function told(string $changelog): array
    {
        return array_map(
            static fn (array $row): array => [(int)$row['entity_id']],
            $this->connection->fetchAll("SELECT entity_id FROM $changelog ORDER BY version_id")
        );
    }

    private function sql(string $statement): void
    {
        $this->connection->run($statement);
    }
}
