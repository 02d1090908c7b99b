<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use Magento\Framework\App\Filesystem\DirectoryList;
use Magento\Framework\App\ResourceConnection;
use Magento\Framework\Module\Status;
use Magento\Framework\Mview\ConfigInterface;
use Magento\Framework\Mview\View\Collection;
use Magento\Framework\Mview\View\CollectionFactory;
use Magento\Framework\Mview\ViewInterfaceFactory;
use Magento\Framework\Setup\ModuleContextInterface;
use Magento\Framework\Setup\SchemaSetupInterface;
use PHPUnit\Framework\TestCase;
use Psr\Log\LoggerInterface;
use Tocsin\BreachNotification\Model\Capture\FindTriggers;
use Tocsin\BreachNotification\Model\Capture\ListViews;
use Tocsin\BreachNotification\Model\Capture\NarrowTriggerStatement;
use Tocsin\BreachNotification\Model\Capture\SubscribeViews;
use Tocsin\BreachNotification\Model\Capture\UnsubscribeViews;
use Tocsin\BreachNotification\Plugin\KeepViewsInCollection;
use Tocsin\BreachNotification\Plugin\UnsubscribeBeforeDisabling;
use Tocsin\BreachNotification\Setup\Recurring;

/**
 * Views are subscribed, mended and taken out again; what a trigger's statement becomes.
 */
class CaptureTest extends TestCase
{
    private const INSERT = 'INSERT IGNORE INTO `shop_tocsin_order_cl` (`entity_id`) VALUES (NEW.`entity_id`);';

    /**
     * @var array<int, array<string, string>>
     */
    private array $triggers = [];

    public function testAViewThatNeverWasSubscribedIsSubscribedAndItsChangesAreTimed(): void
    {
        $view = new FakeView('tocsin_customer', 'customer_entity');
        $connection = $this->connection(['shop_tocsin_customer_cl']);
        $connection->expects(self::once())->method('addColumn')->with('shop_tocsin_customer_cl', 'changed_at');
        self::assertSame(['tocsin_customer: subscribed'], $this->subscribe([$view], $connection)->execute());
        self::assertSame(['subscribe'], $view->did);
    }

    public function testAViewOfOthersIsLeftAlone(): void
    {
        $other = new FakeView('other', 'customer_entity', false, 'indexer');
        self::assertSame([], $this->subscribe([$other])->execute());
        self::assertSame([], $other->did);
    }

    public function testWhatSomebodySwitchedOffStaysOffOverUpgrades(): void
    {
        $view = new FakeView('tocsin_customer', 'customer_entity');
        $view->known = true;
        self::assertStringContainsString('left off', $this->subscribe([$view])->execute()[0]);
        self::assertSame([], $view->did);
        $this->subscribe([$view])->execute(true);
        self::assertSame(['subscribe'], $view->did);
    }

    public function testATriggerThatIsGoneIsMadeAnewAndOneThatIsThereIsNot(): void
    {
        $view = new FakeView('tocsin_customer', 'customer_entity', true);
        $this->subscribe([$view])->execute();
        self::assertSame(['save trg_customer_entity'], $view->did);

        $view->did = [];
        $this->triggers = [$this->trigger($view->getTriggers()[0]->getStatements()[0] . "\nINSERT of another view;")];
        self::assertSame([], $this->subscribe([$view])->execute());
        self::assertSame([], $view->did);
    }

    public function testAChangelogThatIsGoneIsMadeAnewAndSaid(): void
    {
        $view = new FakeView('tocsin_customer', 'customer_entity', true);
        $this->triggers = [$this->trigger($view->getTriggers()[0]->getStatements()[0])];
        $said = $this->subscribe([$view], $this->connection([]))->execute();
        self::assertStringContainsString('changes were lost', $said[0]);
        self::assertSame(['create'], $view->did);
    }

    public function testNoSaveComesBetweenATriggerAndTheOneInItsPlace(): void
    {
        $said = [];
        $connection = $this->connection(['shop_tocsin_customer_cl']);
        $connection->method('query')->willReturnCallback(static function (string $sql) use (&$said): void {
            $said[] = $sql;
        });
        $view = new FakeView('tocsin_customer', 'customer_entity', true);
        $view->saving = static function () use (&$said): void {
            $said[] = 'save';
        };
        $done = $this->subscribe([$view], $connection)->execute();
        self::assertSame(['tocsin_customer: made trigger trg_customer_entity anew'], $done);
        self::assertSame(['LOCK TABLES `shop_customer_entity` WRITE', 'save', 'UNLOCK TABLES'], $said);

        $said = [];
        $view->saving = static fn () => throw new \RuntimeException('refused');
        try {
            $this->subscribe([$view], $connection)->execute();
            self::fail('a trigger that cannot be made is no secret');
        } catch (\RuntimeException $refused) {
            self::assertSame('UNLOCK TABLES', end($said));
        }
    }

    public function testOnMariaDbOneStatementPutsATriggerInThePlaceOfAnother(): void
    {
        $connection = $this->connection(['shop_tocsin_customer_cl']);
        $connection->method('fetchOne')->willReturnCallback(
            static fn (string $sql) => $sql === 'SELECT VERSION()' ? '5.5.5-10.6.18-MariaDB-log' : 'bigint'
        );
        $connection->expects(self::never())->method('query');
        // Magento's query() takes no statement with a semicolon in it.
        $connection->expects(self::once())->method('multiQuery')->with(
            "CREATE OR REPLACE TRIGGER `trg_customer_entity` AFTER INSERT ON `shop_customer_entity` FOR EACH ROW\nBEGIN\n"
            . "INSERT IGNORE INTO `tocsin_customer_cl` (`entity_id`) VALUES (1);\nEND"
        );
        $view = new FakeView('tocsin_customer', 'customer_entity', true);
        $done = $this->subscribe([$view], $connection)->execute();
        self::assertSame(['tocsin_customer: made trigger trg_customer_entity anew'], $done);
        self::assertSame([], $view->did);
    }

    public function testOnAClusterOfMySqlNoTableIsLockedAndTheMomentIsSaid(): void
    {
        $connection = $this->connection(['shop_tocsin_customer_cl']);
        $connection->method('fetchOne')->willReturnCallback(
            static fn (string $sql) => $sql === 'SELECT VERSION()' ? '8.0.36-28' : 'bigint'
        );
        $connection->method('fetchPairs')->with("SHOW VARIABLES LIKE 'wsrep_on'")->willReturn(['wsrep_on' => 'ON']);
        $connection->expects(self::never())->method('query');
        $view = new FakeView('tocsin_customer', 'customer_entity', true);
        $done = $this->subscribe([$view], $connection)->execute();
        self::assertSame(['save trg_customer_entity'], $view->did);
        self::assertStringContainsString('was not seen', $done[0]);
    }

    public function testWhereNoTableMayBeLockedATriggerIsMadeAndTheMomentSaid(): void
    {
        $connection = $this->connection(['shop_tocsin_customer_cl']);
        $connection->method('query')->willThrowException(new \RuntimeException('access denied'));
        $view = new FakeView('tocsin_customer', 'customer_entity', true);
        $done = $this->subscribe([$view], $connection)->execute();
        self::assertSame(['save trg_customer_entity'], $view->did);
        self::assertStringContainsString('was not seen', $done[0]);
    }

    /**
     * @dataProvider changelogs
     */
    public function testTheNumbersOfAChangelogDoNotRunOut(string $type, bool $isLong, bool $isBusy, string $expected): void
    {
        $said = [];
        $connection = $this->connection(['shop_tocsin_customer_cl']);
        $connection->method('fetchOne')->willReturnCallback(static fn (string $sql) => match (true) {
            str_contains($sql, 'DATA_TYPE') => $type,
            str_contains($sql, 'OFFSET') => $isLong,
            default => '86400',
        });
        $connection->method('query')->willReturnCallback(static function (string $sql) use (&$said, $isBusy): void {
            $said[] = $sql;
            if ($isBusy && str_contains($sql, 'ALTER')) {
                throw new \RuntimeException('lock wait timeout');
            }
        });
        $view = new FakeView('tocsin_customer', 'customer_entity', true);
        $this->triggers = [$this->trigger($view->getTriggers()[0]->getStatements()[0])];
        $done = implode($this->subscribe([$view], $connection)->execute());
        self::assertSame($expected === '', $done === '');
        self::assertStringContainsString($expected, $done);
        $altered = [
            'SET SESSION lock_wait_timeout = 5',
            "ALTER TABLE `shop_tocsin_customer_cl` MODIFY version_id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT COMMENT 'Version ID'",
            'SET SESSION lock_wait_timeout = 86400',
        ];
        self::assertSame($type === 'int' && !$isLong ? $altered : [], $said);
    }

    /**
     * @return array<string, array{string, bool, bool, string}>
     */
    public static function changelogs(): array
    {
        return [
            "Magento's" => ['int', false, false, 'numbers that do not run out'],
            'one that was altered' => ['bigint', false, false, ''],
            'one with many rows' => ['int', true, false, 'when the relay has read'],
            'one that an import writes' => ['int', false, true, 'when no import runs'],
        ];
    }

    public function testUnsubscribingLeavesTheViewsSwitchedOffAndForgettingLeavesNothing(): void
    {
        $view = new FakeView('tocsin_customer', 'customer_entity', true);
        $this->unsubscribe([$view])->execute();
        self::assertSame(['unsubscribe'], $view->did);
        $this->unsubscribe([$view])->execute(true);
        self::assertSame(['unsubscribe', 'forget'], $view->did);
    }

    public function testNoChangelogGoesWhileATriggerOfALaterViewStillWritesIt(): void
    {
        $customers = new FakeView('tocsin_customer', 'customer_entity', true);
        $orders = new FakeView('tocsin_order', 'sales_order', true);
        $done = $this->unsubscribe([$customers, $orders])->execute();
        self::assertSame(['tocsin_order: unsubscribed', 'tocsin_customer: unsubscribed'], $done);
    }

    public function testAStatementThatIsStillThereIsTakenOutThoughTheViewIsOff(): void
    {
        $view = new FakeView('tocsin_customer', 'customer_entity');
        $this->triggers = [$this->trigger('INSERT IGNORE INTO `shop_tocsin_customer_cl` (`entity_id`) VALUES (1);')];
        $this->unsubscribe([$view])->execute();
        self::assertSame(['remove'], $view->did);
    }

    public function testAViewThatWritesInItsOwnMannerGetsItsStatementBack(): void
    {
        $plain = new FakeView('plain', 'customer_entity', true, 'indexer');
        $own = new FakeView('own', 'customer_entity', true, 'indexer', 'Their\Subscription');
        $elsewhere = new FakeView('elsewhere', 'other_table', true, 'indexer', 'Their\Subscription');
        $ours = new FakeView('tocsin_customer', 'customer_entity', true);
        $this->unsubscribe([$plain, $own, $elsewhere, $ours])->execute();
        self::assertSame([[], ['create'], []], [$plain->did, $own->did, $elsewhere->did]);
    }

    public function testDisablingTheModuleUnsubscribesFirstAndNothingElseDoes(): void
    {
        $view = new FakeView('tocsin_customer', 'customer_entity', true);
        $plugin = new UnsubscribeBeforeDisabling($this->unsubscribe([$view]));
        $plugin->beforeSetIsEnabled(new Status(), true, ['Tocsin_BreachNotification']);
        $plugin->beforeSetIsEnabled(new Status(), false, ['Magento_Swatches']);
        self::assertSame([], $view->did);
        $plugin->beforeSetIsEnabled(new Status(), false, ['Magento_Swatches', 'Tocsin_BreachNotification']);
        self::assertSame(['unsubscribe', 'forget'], $view->did);
    }

    public function testAViewThatMagentoLeavesOutOfItsListIsPutBackInOrder(): void
    {
        $config = $this->createStub(ConfigInterface::class);
        $config->method('getViews')->willReturn([
            'other' => ['group' => 'indexer'],
            'tocsin_customer' => ['group' => 'tocsin'],
            'tocsin_order' => ['group' => 'tocsin'],
        ]);
        $factory = $this->createStub(ViewInterfaceFactory::class);
        $factory->method('create')->willReturn(new FakeView('', 'customer_entity'));
        $other = new FakeView('other', 'sales_order', true, 'indexer');
        $order = new FakeView('tocsin_order', 'sales_order', true);
        $listed = new Collection([$other, $order]);
        $plugin = new KeepViewsInCollection($config, $factory);
        $plugin->afterLoadData($listed, $listed);
        $ids = array_map(static fn (FakeView $view): string => $view->getId(), array_values($listed->getItems()));
        self::assertSame(['other', 'tocsin_customer', 'tocsin_order'], $ids);
        self::assertContains($order, $listed->getItems());
        self::assertSame($listed, $plugin->afterLoadData($listed, $listed));
        self::assertCount(3, $listed->getItems());
    }

    /**
     * @dataProvider statements
     */
    public function testAStatementIsNarrowed(string $table, string $event, string $statement, string $expected): void
    {
        $connection = $this->connection([]);
        $connection->method('describeTable')->with('shop_sales_order')
            ->willReturn(array_fill_keys(['entity_id', 'status', 'customer_email', 'erp_state', 'store_id'], []));
        $narrow = new NarrowTriggerStatement(
            new ResourceConnection($connection, 'shop_'),
            ['tocsin_order' => ['sales_order' => ['customer_email' => 'customer_email', 'store_id' => 'store_id', 'x' => 'x']]]
        );
        self::assertSame($expected, $narrow->process($table, $event, $statement));
    }

    /**
     * @return array<string, array{string, string, string, string}>
     */
    public static function statements(): array
    {
        $all = 'IF (NOT(NEW.`status` <=> OLD.`status`) OR NOT(NEW.`erp_state` <=> OLD.`erp_state`)) THEN %s END IF;';
        $told = 'IF (NOT(NEW.`customer_email` <=> OLD.`customer_email`) OR NOT(NEW.`store_id` <=> OLD.`store_id`)) THEN '
            . self::INSERT . ' END IF;';
        $others = str_replace('tocsin_order', 'sales_feed', self::INSERT);
        return [
            'an update tells of what is named and there' => ['sales_order', 'UPDATE', sprintf($all, self::INSERT), $told],
            'also if everything was ignored' => ['sales_order', 'UPDATE', self::INSERT, $told],
            'an insert is told' => ['sales_order', 'INSERT', self::INSERT, self::INSERT],
            'another view is left alone' => ['sales_order', 'UPDATE', sprintf($all, $others), sprintf($all, $others)],
            'another table is left alone' => ['other', 'UPDATE', sprintf($all, self::INSERT), sprintf($all, self::INSERT)],
            'what somebody words differently is left alone' => ['sales_order', 'UPDATE', "SET @x = 1;\n" . self::INSERT,
                "SET @x = 1;\n" . self::INSERT],
        ];
    }

    public function testWhoseTheRowWasIsToldWhereItChangesHands(): void
    {
        $connection = $this->connection([]);
        $connection->method('describeTable')->willReturn(array_fill_keys(['entity_id', 'customer_id'], []));
        $narrow = new NarrowTriggerStatement(
            new ResourceConnection($connection, 'shop_'),
            ['tocsin_order' => ['sales_order' => ['customer_id' => 'customer_id']]],
            ['tocsin_order' => ['sales_order' => ['customer_id' => 'tocsin_customer']]]
        );
        $moved = 'NOT(NEW.`customer_id` <=> OLD.`customer_id`)';
        $former = 'INSERT IGNORE INTO `shop_tocsin_customer_cl` (`entity_id`) VALUES (OLD.`customer_id`); END IF;';
        self::assertSame(
            "IF ($moved) THEN " . self::INSERT . " END IF; IF (OLD.`customer_id` IS NOT NULL AND $moved) THEN $former",
            $narrow->process('sales_order', 'UPDATE', self::INSERT)
        );
        self::assertSame(
            self::INSERT . " IF (OLD.`customer_id` IS NOT NULL) THEN $former",
            $narrow->process('sales_order', 'DELETE', self::INSERT)
        );
        self::assertSame(self::INSERT, $narrow->process('sales_order', 'INSERT', self::INSERT));
        $others = str_replace('tocsin_order', 'sales_feed', self::INSERT);
        self::assertSame($others, $narrow->process('sales_order', 'DELETE', $others));
    }

    public function testWhatARowWasBeforeItBecameAnotherIsToldAsWhatNoRowIs(): void
    {
        $insert = 'INSERT IGNORE INTO `shop_tocsin_provenance_cl` (`entity_id`, `record_id`, `root`)'
            . ' VALUES (NEW.`id`, NEW.`record_id`, NEW.`root`);';
        $narrow = new NarrowTriggerStatement(
            new ResourceConnection($this->connection([]), 'shop_'),
            [],
            [],
            ['tocsin_provenance' => ['tocsin_provenance' => ['record_id' => 'record_id', 'root' => 'root']]]
        );
        self::assertSame(
            $insert . ' IF (NOT(NEW.`record_id` <=> OLD.`record_id`) OR NOT(NEW.`root` <=> OLD.`root`)) THEN INSERT IGNORE INTO'
                . ' `shop_tocsin_provenance_cl` (`entity_id`, `record_id`, `root`) VALUES (4294967295, OLD.`record_id`,'
                . ' OLD.`root`); END IF;',
            $narrow->process('tocsin_provenance', 'UPDATE', $insert)
        );
        self::assertSame($insert, $narrow->process('tocsin_provenance', 'INSERT', $insert));
    }

    public function testWhoLosesARowToAnotherIsToldAndOfADeletedRowNobodyTwice(): void
    {
        $insert = 'INSERT IGNORE INTO `shop_tocsin_customer_address_cl` (`entity_id`) VALUES (%s.`parent_id`);';
        $narrow = new NarrowTriggerStatement(
            new ResourceConnection($this->connection([]), 'shop_'),
            [],
            ['tocsin_customer_address' => ['customer_address_entity' => ['parent_id' => 'tocsin_customer_address']]]
        );
        $update = sprintf($insert, 'NEW');
        self::assertSame(
            $update . ' IF (OLD.`parent_id` IS NOT NULL AND NOT(NEW.`parent_id` <=> OLD.`parent_id`)) THEN '
                . sprintf($insert, 'OLD') . ' END IF;',
            $narrow->process('customer_address_entity', 'UPDATE', $update)
        );
        $delete = sprintf($insert, 'OLD');
        self::assertSame($delete, $narrow->process('customer_address_entity', 'DELETE', $delete));
    }

    public function testFromALinkItRefusesToBeInstalledAndWhatItDoesIsLogged(): void
    {
        $view = new FakeView('tocsin_customer', 'customer_entity');
        $logger = $this->createMock(LoggerInterface::class);
        $logger->expects(self::once())->method('warning')->with('Tocsin: tocsin_customer: subscribed');
        $install = fn (string $shop) => (new Recurring(
            $this->subscribe([$view]),
            new DirectoryList($shop),
            $logger
        ))->install(
            $this->createStub(SchemaSetupInterface::class),
            $this->createStub(ModuleContextInterface::class)
        );
        $install(dirname(__DIR__, 4));
        self::assertTrue($view->enabled);
        $this->expectExceptionMessage('"options": {"symlink": false}');
        $install(__DIR__);
    }

    /**
     * @param FakeView[] $views
     */
    private function subscribe(array $views, ?SchemaConnection $connection = null): SubscribeViews
    {
        $resource = new ResourceConnection($connection ?? $this->connection(['shop_tocsin_customer_cl']), 'shop_');
        return new SubscribeViews($this->listed($views), new FindTriggers($resource), $resource);
    }

    /**
     * @param FakeView[] $views
     */
    private function unsubscribe(array $views): UnsubscribeViews
    {
        $resource = new ResourceConnection($this->connection([]), 'shop_');
        // A table of the view's own name, as the database has it: with the prefix.
        return new UnsubscribeViews($this->listed($views), new FindTriggers($resource), $resource);
    }

    /**
     * @param FakeView[] $views
     */
    private function listed(array $views): ListViews
    {
        $factory = $this->createStub(CollectionFactory::class);
        $factory->method('create')->willReturn($views);
        return new ListViews($factory);
    }

    /**
     * @return array<string, string>
     */
    private function trigger(string $body): array
    {
        return ['name' => 'trg_customer_entity', 'watched' => 'shop_customer_entity', 'event' => 'INSERT', 'body' => $body];
    }

    /**
     * @param string[] $tables that exist
     * @return SchemaConnection&\PHPUnit\Framework\MockObject\MockObject
     */
    private function connection(array $tables): SchemaConnection
    {
        $connection = $this->createMock(SchemaConnection::class);
        $connection->method('fetchAll')->willReturnCallback(fn (): array => $this->triggers);
        $connection->method('isTableExists')->willReturnCallback(
            static fn (string $name): bool => in_array($name, $tables, true)
        );
        $connection->method('quoteIdentifier')->willReturnCallback(static fn (string $name): string => "`$name`");
        return $connection;
    }
}
