<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\Exception\LocalizedException;
use Magento\Framework\Setup\Patch\PatchApplier;
use Tocsin\BreachNotification\Model\Capture\FindTriggers;
use Tocsin\BreachNotification\Model\Capture\UnsubscribeViews;

/**
 * Leaves the database as if this module had never been there. Provenance and notices are gone for good.
 */
class RemoveTraces
{
    /**
     * @param ListTraces $listTraces
     * @param UnsubscribeViews $unsubscribeViews
     * @param FindTriggers $findTriggers
     * @param PatchApplier $patchApplier
     * @param ResourceConnection $resource
     */
    public function __construct(
        private readonly ListTraces $listTraces,
        private readonly UnsubscribeViews $unsubscribeViews,
        private readonly FindTriggers $findTriggers,
        private readonly PatchApplier $patchApplier,
        private readonly ResourceConnection $resource
    ) {
    }

    /**
     * Remove triggers, then rows, then tables. A crash leaves the rest for the next call; no order of it breaks a save.
     *
     * @return void
     * @throws LocalizedException if a trigger still writes one of our tables: dropping it would fail every save
     */
    public function execute(): void
    {
        $connection = $this->resource->getConnection();
        $tables = [...$this->listTraces->changelogs(), ...$this->listTraces->declaredTables()];
        $conditions = $this->listTraces->conditions();
        $this->unsubscribeViews->execute(true);
        foreach ($tables as $table) {
            // A trigger on a table goes with it; only those of other tables would then write into nothing.
            $left = array_filter(
                $this->findTriggers->writing($table),
                static fn (array $trigger): bool => !in_array($trigger['table'], $tables, true)
            );
            if ($left) {
                throw new LocalizedException(__(
                    'Trigger %1 on %2 still writes %3, and Magento does not know why: take that statement out of it first.'
                    . ' Nothing but triggers was removed so far.',
                    array_key_first($left),
                    current($left)['table'],
                    $table
                ));
            }
        }
        $this->patchApplier->revertDataPatches(ListTraces::MODULE);
        foreach ($conditions as $table => $condition) {
            if ($connection->isTableExists($table)) {
                $connection->delete($table, $condition);
            }
        }
        foreach ($tables as $table) {
            if ($connection->isTableExists($table)) {
                $connection->dropTable($table);
            }
        }
    }
}
