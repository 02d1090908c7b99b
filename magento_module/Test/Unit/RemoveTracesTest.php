<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\Component\ComponentRegistrarInterface;
use Magento\Framework\Exception\LocalizedException;
use Magento\Framework\Filesystem\Driver\File;
use Magento\Framework\Mview\View\CollectionFactory;
use Magento\Framework\Setup\Patch\PatchApplier;
use PHPUnit\Framework\TestCase;
use Tocsin\BreachNotification\Model\Capture\FindTriggers;
use Tocsin\BreachNotification\Model\Capture\ListViews;
use Tocsin\BreachNotification\Model\Capture\UnsubscribeViews;
use Tocsin\BreachNotification\Model\ListTraces;
use Tocsin\BreachNotification\Model\RemoveTraces;

/**
 * What an uninstallation removes, in which order, and when it refuses.
 */
class RemoveTracesTest extends TestCase
{
    /**
     * @var string[]
     */
    private array $did = [];

    public function testTriggersGoFirstThenRowsThenTables(): void
    {
        $view = new FakeView('tocsin_customer', 'customer_entity', true);
        $this->remove($view, [])->execute();
        self::assertSame(['unsubscribe', 'forget'], $view->did);
        self::assertSame('revert patches of Tocsin_BreachNotification', $this->did[0]);
        self::assertContains('delete from shop_core_config_data', $this->did);
        self::assertContains('drop shop_tocsin_provenance', $this->did);
        $dropped = array_search('drop shop_tocsin_customer_cl', $this->did, true);
        $deleted = array_search('delete from shop_setup_module', $this->did, true);
        self::assertGreaterThan($deleted, $dropped);
    }

    public function testATriggerThatStillWritesAChangelogStopsAllBeforeAnythingIsDropped(): void
    {
        $statement = 'INSERT IGNORE INTO `shop_tocsin_customer_cl` (`entity_id`) VALUES (NEW.`entity_id`);';
        $left = ['name' => 'trg_by_hand', 'watched' => 'shop_customer_log', 'event' => 'INSERT', 'body' => $statement];
        try {
            $this->remove(new FakeView('tocsin_customer', 'customer_entity', true), [$left])->execute();
            self::fail('it did not refuse');
        } catch (LocalizedException $error) {
            self::assertStringContainsString('trg_by_hand', $error->getMessage());
        }
        self::assertSame([], $this->did);
    }

    /**
     * @param array<int, array<string, string>> $triggers
     */
    private function remove(FakeView $view, array $triggers): RemoveTraces
    {
        $connection = $this->createStub(SchemaConnection::class);
        $connection->method('fetchAll')->willReturn($triggers);
        $connection->method('isTableExists')->willReturn(true);
        $connection->method('delete')->willReturnCallback(function (string $table): void {
            $this->did[] = "delete from $table";
        });
        $connection->method('dropTable')->willReturnCallback(function (string $table): void {
            $this->did[] = "drop $table";
        });
        $resource = new ResourceConnection($connection, 'shop_');
        $factory = $this->createStub(CollectionFactory::class);
        $factory->method('create')->willReturn([$view]);
        $registrar = $this->createStub(ComponentRegistrarInterface::class);
        $registrar->method('getPath')->willReturn(dirname(__DIR__, 2));
        $patches = $this->createStub(PatchApplier::class);
        $patches->method('revertDataPatches')->willReturnCallback(function (string $module): void {
            $this->did[] = "revert patches of $module";
        });
        $listViews = new ListViews($factory);
        $findTriggers = new FindTriggers($resource);
        return new RemoveTraces(
            new ListTraces($resource, $listViews, $findTriggers, $registrar, new File()),
            new UnsubscribeViews($listViews, $findTriggers, $resource),
            $findTriggers,
            $patches,
            $resource
        );
    }
}
