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
 *
 * One thing is added: who a row belonged to until now. Magento's own statements know only whose it is, and a customer who
 * loses an order does not change otherwise.
 */
class NarrowTriggerStatement implements SubscriptionStatementPostprocessorInterface
{
    /**
     * The largest id there is, which no row has.
     */
    private const NO_ROW = 4294967295;

    /**
     * @param ResourceConnection $resource
     * @param array<string, array<string, string[]>> $toldColumns by view and table: the only columns whose change is told
     * @param array<string, array<string, array<string, string>>> $formerOwners by view, table and column that names whose
     *     the row is: the view that is told of whom it named before
     * @param array<string, array<string, array<string, string>>> $formerNames by view and table: the columns that say what a
     *     row is, all of which its changelog has; where one changes, what the row was is told as what no row is any more
     */
    public function __construct(
        private readonly ResourceConnection $resource,
        private readonly array $toldColumns = [],
        private readonly array $formerOwners = [],
        private readonly array $formerNames = []
    ) {
    }

    /**
     * Return the statement, narrowed and with former owners if it writes one of our changelogs.
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
        foreach ($this->formerOwners as $view => $tables) {
            $changelog = $this->resource->getTableName($view . '_cl');
            if (isset($tables[$tableName]) && str_contains($statement, "INSERT IGNORE INTO `$changelog` ")) {
                $statement .= $this->tellFormer($tables[$tableName], $event, $view);
            }
        }
        foreach ($this->formerNames as $view => $tables) {
            $changelog = $this->resource->getTableName($view . '_cl');
            if ($event === Trigger::EVENT_UPDATE
                && isset($tables[$tableName])
                && str_contains($statement, "INSERT IGNORE INTO `$changelog` ")
            ) {
                $statement .= $this->tellFormerName($tables[$tableName], $changelog);
            }
        }
        return $statement;
    }

    /**
     * Return the statements that tell of the owners whom the row had before `$event`.
     *
     * @param array<string, string> $owners
     * @param string $event
     * @param string $own the view whose statement this is: of a row that is deleted it names the owner itself
     * @return string
     */
    private function tellFormer(array $owners, string $event, string $own): string
    {
        $conditions = [
            Trigger::EVENT_UPDATE => 'OLD.%1$s IS NOT NULL AND NOT(NEW.%1$s <=> OLD.%1$s)',
            Trigger::EVENT_DELETE => 'OLD.%1$s IS NOT NULL',
        ];
        if (!isset($conditions[$event])) {
            return '';
        }
        $connection = $this->resource->getConnection();
        $told = '';
        foreach ($owners as $column => $view) {
            if ($event === Trigger::EVENT_DELETE && $view === $own) {
                continue;
            }
            $told .= sprintf(
                ' IF (' . $conditions[$event] . ') THEN INSERT IGNORE INTO %2$s (`entity_id`) VALUES (OLD.%1$s); END IF;',
                $connection->quoteIdentifier($column),
                $connection->quoteIdentifier($this->resource->getTableName($view . '_cl'))
            );
        }
        return $told;
    }

    /**
     * Return the statement that tells what the row was before it became another.
     *
     * @param string[] $columns
     * @param string $changelog
     * @return string
     */
    private function tellFormerName(array $columns, string $changelog): string
    {
        $connection = $this->resource->getConnection();
        $names = array_map(static fn (string $column): string => $connection->quoteIdentifier($column), array_values($columns));
        $changed = array_map(static fn (string $name): string => "NOT(NEW.$name <=> OLD.$name)", $names);
        $values = array_map(static fn (string $name): string => "OLD.$name", $names);
        return sprintf(
            ' IF (%s) THEN INSERT IGNORE INTO %s (`entity_id`, %s) VALUES (%d, %s); END IF;',
            implode(' OR ', $changed),
            $connection->quoteIdentifier($changelog),
            implode(', ', $names),
            self::NO_ROW,
            implode(', ', $values)
        );
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
