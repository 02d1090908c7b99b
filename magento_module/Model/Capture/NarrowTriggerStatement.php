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
     * @param array<string, string[]> $untoldAttributes by view on value tables: codes of customer attributes never told
     */
    public function __construct(
        private readonly ResourceConnection $resource,
        private readonly array $toldColumns = [],
        private readonly array $untoldAttributes = []
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
        foreach ($this->untoldAttributes as $view => $codes) {
            $statement = $this->leaveOut($codes, $view, $event, $statement);
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
        $parts = $this->parts($view, $statement);
        if ($parts === null) {
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
        return $changed ? sprintf('IF (%s) THEN %s END IF;', implode(' OR ', $changed), $parts['insert']) : $statement;
    }

    /**
     * Return the statement for all attributes but those of `$codes`.
     *
     * @param string[] $codes
     * @param string $view
     * @param string $event
     * @param string $statement
     * @return string
     */
    private function leaveOut(array $codes, string $view, string $event, string $statement): string
    {
        $parts = $this->parts($view, $statement);
        $ids = $parts === null || !$codes ? [] : $this->attributeIds($codes);
        if (!$ids) {
            return $statement;
        }
        $row = $event === Trigger::EVENT_DELETE ? 'OLD' : 'NEW';
        $condition = sprintf('%s.`attribute_id` NOT IN (%s)', $row, implode(', ', $ids));
        if ($parts['condition'] !== '') {
            $condition .= " AND ({$parts['condition']})";
        }
        return "IF ($condition) THEN {$parts['insert']} END IF;";
    }

    /**
     * Return condition and insertion of a statement that writes the view's changelog; null for any other.
     *
     * @param string $view
     * @param string $statement
     * @return array{condition: string, insert: string}|null
     */
    private function parts(string $view, string $statement): ?array
    {
        $changelog = preg_quote($this->resource->getTableName($view . '_cl'), '/');
        $insert = "INSERT IGNORE INTO `$changelog` [^;]*;";
        if (!preg_match("/^\s*(?:IF \((?<condition>.*)\) THEN )?(?<insert>$insert)(?: END IF;)?\s*$/s", $statement, $found)) {
            return null;
        }
        return ['condition' => $found['condition'], 'insert' => $found['insert']];
    }

    /**
     * Return the ids of customer attributes, in ascending order; nothing is kept, as a patch may just have made them.
     *
     * @param string[] $codes
     * @return int[]
     */
    private function attributeIds(array $codes): array
    {
        $connection = $this->resource->getConnection();
        $select = $connection->select()
            ->from(['a' => $this->resource->getTableName('eav_attribute')], ['attribute_id'])
            ->join(
                ['t' => $this->resource->getTableName('eav_entity_type')],
                't.entity_type_id = a.entity_type_id',
                []
            )
            ->where('t.entity_type_code = ?', 'customer')
            ->where('a.attribute_code IN (?)', array_values($codes))
            ->order('a.attribute_id');
        return array_map('intval', $connection->fetchCol($select));
    }
}
