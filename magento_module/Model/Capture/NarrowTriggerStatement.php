<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Capture;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\DB\Ddl\Trigger;
use Magento\Framework\Mview\View\SubscriptionStatementPostprocessorInterface;

/**
 * Makes the statements that write our changelogs as narrow as their reader needs.
 *
 * Magento asks every postprocessor for every statement that it puts into a trigger, also when another module's view makes
 * a shared trigger anew: what is narrowed here stays narrow, which a subscription model of our own could not promise.
 * An ignore list cannot name columns that other modules add; so for some tables it is told here whose change counts.
 */
class NarrowTriggerStatement implements SubscriptionStatementPostprocessorInterface
{
    /**
     * @param ResourceConnection $resource
     * @param array<string, array<string, string[]>> $toldColumns by view and table: the only columns whose change is told
     */
    public function __construct(
        private readonly ResourceConnection $resource,
        private readonly array $toldColumns = []
    ) {
    }

    /**
     * Return the statement, narrowed if it writes one of our changelogs.
     *
     * @param string $tableName
     * @param string $event
     * @param string $statement
     * @return string
     */
    public function process(string $tableName, string $event, string $statement): string
    {
        foreach ($this->toldColumns as $view => $tables) {
            if ($event === Trigger::EVENT_UPDATE && isset($tables[$tableName])) {
                $statement = $this->tellOnly($tables[$tableName], $tableName, $view, $statement);
            }
        }
        return $statement;
    }

    /**
     * Return the statement with a condition on `$columns` alone, as far as the table has them.
     *
     * @param string[] $columns
     * @param string $tableName
     * @param string $view
     * @param string $statement
     * @return string
     */
    private function tellOnly(array $columns, string $tableName, string $view, string $statement): string
    {
        $changelog = preg_quote($this->resource->getTableName($view . '_cl'), '/');
        if (!preg_match("/^(?:IF \\(.*\\) THEN )?(INSERT IGNORE INTO `$changelog` [^;]*;)(?: END IF;)?$/s", $statement, $found)) {
            return $statement;
        }
        $connection = $this->resource->getConnection();
        $there = array_keys($connection->describeTable($this->resource->getTableName($tableName)));
        $changed = array_map(
            function (string $column) use ($connection): string {
                $name = $connection->quoteIdentifier($column);
                return "NOT(NEW.$name <=> OLD.$name)";
            },
            array_intersect($there, $columns)
        );
        // A table without any of the columns is none that we know: then everything is told.
        return $changed ? sprintf('IF (%s) THEN %s END IF;', implode(' OR ', $changed), $found[1]) : $statement;
    }
}
