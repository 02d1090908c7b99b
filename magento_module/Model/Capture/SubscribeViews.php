<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Capture;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\DB\Ddl\Table;
use Magento\Framework\DB\Ddl\Trigger;
use Magento\Framework\Mview\View\StateInterface;
use Magento\Framework\Mview\View\SubscriptionInterface;
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
     * The last number that Magento's own changelogs can give to a change.
     */
    public const LAST_INT = 4294967295;

    /**
     * Rows of a changelog that are rewritten while saves wait for it, which takes a moment.
     */
    private const FEW_ROWS = 100000;

    private const WAIT_SECONDS = 5;

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
            array_push($done, ...$this->letNumbersLast($view));
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
            $done[] = "{$view->getId()}: made its changelog anew; changes were lost";
        }
        $this->noteTimes($view);
        array_push($done, ...$this->letNumbersLast($view));
        $there = $this->findTriggers->execute();
        foreach ($view->getSubscriptions() as $config) {
            $subscription = $view->initSubscriptionInstance($config);
            foreach ($subscription->create(false)->getTriggers() as $trigger) {
                $ours = $trigger->getStatements()[0];
                if (!str_contains($there[$trigger->getName()]['body'] ?? '', $ours)) {
                    $done[] = "{$view->getId()}: made trigger {$trigger->getName()} anew"
                        . ($this->replace($subscription, $trigger) ? '' : '; what was saved in that moment was not seen');
                }
            }
        }
        return $done;
    }

    /**
     * Put a trigger in the place of another one; return whether no save could come between.
     *
     * Magento drops the one and then makes the other. MariaDB knows one statement for both, which saves wait for, on every node
     * of a cluster. MySQL does not: there saves wait for the table, for as long as that takes.
     *
     * @param SubscriptionInterface $subscription
     * @param Trigger $trigger
     * @return bool
     */
    private function replace(SubscriptionInterface $subscription, Trigger $trigger): bool
    {
        $connection = $this->resource->getConnection();
        if (stripos((string)$connection->fetchOne('SELECT VERSION()'), 'mariadb') !== false) {
            $connection->multiQuery(sprintf(
                "CREATE OR REPLACE TRIGGER %s %s %s ON %s FOR EACH ROW\nBEGIN\n%s\nEND",
                $connection->quoteIdentifier($trigger->getName()),
                $trigger->getTime(),
                $trigger->getEvent(),
                $connection->quoteIdentifier($trigger->getTable()),
                implode("\n", $trigger->getStatements())
            ));
            return true;
        }
        if ($this->isCluster()) {
            // Under a lock the trigger would wait for what other nodes have saved, and that for the lock: for good, and every
            // save of the cluster behind it.
            $subscription->saveTrigger($trigger);
            return false;
        }
        try {
            $connection->query('LOCK TABLES ' . $connection->quoteIdentifier($trigger->getTable()) . ' WRITE');
        } catch (\Exception $refused) {
            // Some hosts do not let a shop lock its tables.
            $subscription->saveTrigger($trigger);
            return false;
        }
        try {
            $subscription->saveTrigger($trigger);
        } finally {
            $connection->query('UNLOCK TABLES');
        }
        return true;
    }

    /**
     * Return whether the database is a node of a Galera cluster.
     *
     * @return bool
     */
    private function isCluster(): bool
    {
        $variables = $this->resource->getConnection()->fetchPairs("SHOW VARIABLES LIKE 'wsrep_on'");
        return strtoupper($variables['wsrep_on'] ?? 'OFF') === 'ON';
    }

    /**
     * Give the changelog numbers that do not run out, and return what was done.
     *
     * Magento's own end at four thousand million. Its triggers ignore that there are no more, and from then on no change is
     * told: a model that writes a value of every customer every night gets there in months.
     *
     * @param ViewInterface $view
     * @return string[]
     */
    private function letNumbersLast(ViewInterface $view): array
    {
        $connection = $this->resource->getConnection();
        $changelog = $this->resource->getTableName($view->getChangelog()->getName());
        $type = $connection->fetchOne(
            'SELECT DATA_TYPE FROM information_schema.COLUMNS'
            . " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND COLUMN_NAME = 'version_id'",
            [$changelog]
        );
        if ($type !== 'int') {
            return [];
        }
        $later = "{$view->getId()}: left the numbers of its changelog as they are, which end at " . self::LAST_INT
            . '; run bin/magento tocsin:capture:enable when ';
        $name = $connection->quoteIdentifier($changelog);
        if ($connection->fetchOne("SELECT 1 FROM $name LIMIT 1 OFFSET " . self::FEW_ROWS)) {
            return [$later . 'the relay has read what waits there'];
        }
        // Whoever saves waits behind this statement: so it does not wait long itself.
        $before = (int)$connection->fetchOne('SELECT @@SESSION.lock_wait_timeout');
        $connection->query('SET SESSION lock_wait_timeout = ' . self::WAIT_SECONDS);
        try {
            $connection->query("ALTER TABLE $name MODIFY version_id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT COMMENT 'Version ID'");
        } catch (\Exception $busy) {
            return [$later . 'no import runs'];
        } finally {
            $connection->query("SET SESSION lock_wait_timeout = $before");
        }
        return ["{$view->getId()}: gave its changelog numbers that do not run out"];
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
