<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Capture;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\DB\Ddl\Table;
use Magento\Framework\Mview\View\StateInterface;
use Magento\Framework\Mview\ViewInterface;

/**
 * Lets the database tell us of changes: changelogs and triggers, made by Magento's own mview, or mended where they differ.
 *
 * Magento subscribes a view only along with its indexer. Ours have none, so nobody but this class does it.
 */
class SubscribeViews
{
    /**
     * When the change was made: Magento's changelogs do not say.
     */
    public const CHANGED_AT = 'changed_at';

    /**
     * @param ListViews $listViews
     * @param FindTriggers $findTriggers
     * @param ResourceConnection $resource
     */
    public function __construct(
        private readonly ListViews $listViews,
        private readonly FindTriggers $findTriggers,
        private readonly ResourceConnection $resource
    ) {
    }

    /**
     * Subscribe every view that never was, mend what is subscribed, and return what was done, a line each.
     *
     * A view that somebody switched off (`tocsin:capture:disable`) stays off, unless `$alsoSwitchedOff`.
     * A crash in between leaves views that are not marked as enabled; the next call makes them anew.
     *
     * @param bool $alsoSwitchedOff
     * @return string[]
     */
    public function execute(bool $alsoSwitchedOff = false): array
    {
        $done = [];
        foreach ($this->listViews->execute() as $id => $view) {
            if ($view->isEnabled()) {
                array_push($done, ...$this->mend($view));
                continue;
            }
            if ($this->isSwitchedOff($view->getState()) && !$alsoSwitchedOff) {
                $done[] = "$id: left off, as somebody switched it off (bin/magento tocsin:capture:enable)";
                continue;
            }
            $view->subscribe();
            $this->noteTimes($view);
            $done[] = "$id: subscribed";
        }
        return $done;
    }

    /**
     * Return whether the view was on once and is off: one that never was subscribed has no row in mview_state.
     *
     * @param StateInterface $state
     * @return bool
     */
    private function isSwitchedOff(StateInterface $state): bool
    {
        return (bool)$state->getData('state_id') && $state->getMode() === StateInterface::MODE_DISABLED;
    }

    /**
     * Make what is missing of an enabled view, and return what that was.
     *
     * @param ViewInterface $view
     * @return string[]
     */
    private function mend(ViewInterface $view): array
    {
        $done = [];
        $changelog = $this->resource->getTableName($view->getChangelog()->getName());
        if (!$this->resource->getConnection()->isTableExists($changelog)) {
            $view->getChangelog()->create();
            $done[] = "{$view->getId()}: made its changelog anew; run a backfill, changes were lost";
        }
        $this->noteTimes($view);
        $there = $this->findTriggers->execute();
        foreach ($view->getSubscriptions() as $config) {
            $subscription = $view->initSubscriptionInstance($config);
            foreach ($subscription->create(false)->getTriggers() as $trigger) {
                $ours = $trigger->getStatements()[0];
                if (!str_contains($there[$trigger->getName()]['body'] ?? '', $ours)) {
                    $subscription->saveTrigger($trigger);
                    $done[] = "{$view->getId()}: made trigger {$trigger->getName()} anew";
                }
            }
        }
        return $done;
    }

    /**
     * Let each changelog row carry its time, by a column default: the triggers do not know of it.
     *
     * @param ViewInterface $view
     * @return void
     */
    private function noteTimes(ViewInterface $view): void
    {
        $connection = $this->resource->getConnection();
        $changelog = $this->resource->getTableName($view->getChangelog()->getName());
        if (!$connection->tableColumnExists($changelog, self::CHANGED_AT)) {
            $connection->addColumn($changelog, self::CHANGED_AT, [
                'type' => Table::TYPE_TIMESTAMP,
                'nullable' => false,
                'default' => Table::TIMESTAMP_INIT,
                'comment' => 'Changed At',
            ]);
        }
    }
}
