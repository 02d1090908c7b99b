<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\Component\ComponentRegistrar;
use Magento\Framework\Component\ComponentRegistrarInterface;
use Magento\Framework\Filesystem\Driver\File;
use Tocsin\BreachNotification\Model\Capture\FindTriggers;
use Tocsin\BreachNotification\Model\Capture\ListViews;

/**
 * Everything that this module has put into the database, whether Magento would remove it or not.
 */
class ListTraces
{
    public const MODULE = 'Tocsin_BreachNotification';

    /**
     * Rows of Magento's tables that are ours: table, condition.
     */
    private const ROWS = [
        'mview_state' => "view_id LIKE 'tocsin\\_%'",
        'patch_list' => "patch_name LIKE 'Tocsin\\\\\\\\BreachNotification\\\\\\\\%'",
        'core_config_data' => "path LIKE 'tocsin/%' OR path LIKE 'tocsin\\_%'",
        'authorization_rule' => "resource_id LIKE 'Tocsin\\_BreachNotification::%'",
        'cron_schedule' => "job_code LIKE 'tocsin\\_%'",
        'flag' => "flag_code LIKE 'tocsin\\_%'",
        'eav_attribute' => "attribute_code LIKE 'tocsin\\_%'",
        'setup_module' => "module = 'Tocsin_BreachNotification'",
    ];

    /**
     * @param ResourceConnection $resource
     * @param ListViews $listViews
     * @param FindTriggers $findTriggers
     * @param ComponentRegistrarInterface $componentRegistrar
     * @param File $file
     */
    public function __construct(
        private readonly ResourceConnection $resource,
        private readonly ListViews $listViews,
        private readonly FindTriggers $findTriggers,
        private readonly ComponentRegistrarInterface $componentRegistrar,
        private readonly File $file
    ) {
    }

    /**
     * Return what is there now: triggers that write our changelogs, tables with their rows, and rows of Magento's tables.
     *
     * @return array{triggers: string[], tables: array<string, int>, rows: array<string, int>}
     */
    public function execute(): array
    {
        $connection = $this->resource->getConnection();
        $traces = ['triggers' => [], 'tables' => [], 'rows' => []];
        foreach ([...$this->changelogs(), ...$this->declaredTables()] as $table) {
            array_push($traces['triggers'], ...array_keys($this->findTriggers->writing($table)));
            if ($connection->isTableExists($table)) {
                $traces['tables'][$table] = (int)$connection->fetchOne("SELECT COUNT(*) FROM `$table`");
            }
        }
        foreach (self::ROWS as $name => $condition) {
            $table = $this->resource->getTableName($name);
            if ($connection->isTableExists($table)
                && ($count = (int)$connection->fetchOne("SELECT COUNT(*) FROM `$table` WHERE $condition"))
            ) {
                $traces['rows'][$table] = $count;
            }
        }
        $traces['triggers'] = array_values(array_unique($traces['triggers']));
        return $traces;
    }

    /**
     * Return the condition for our rows by Magento's table (with prefix).
     *
     * @return array<string, string>
     */
    public function conditions(): array
    {
        $conditions = [];
        foreach (self::ROWS as $name => $condition) {
            $conditions[$this->resource->getTableName($name)] = $condition;
        }
        return $conditions;
    }

    /**
     * Return the names of our changelogs, with prefix.
     *
     * @return string[]
     */
    public function changelogs(): array
    {
        return array_values(array_map(
            fn ($view): string => $this->resource->getTableName($view->getChangelog()->getName()),
            $this->listViews->execute()
        ));
    }

    /**
     * Return the names of the tables of etc/db_schema.xml, with prefix.
     *
     * @return string[]
     */
    public function declaredTables(): array
    {
        $folder = $this->componentRegistrar->getPath(ComponentRegistrar::MODULE, self::MODULE);
        $schema = new \SimpleXMLElement($this->file->fileGetContents("$folder/etc/db_schema.xml"));
        $tables = [];
        foreach ($schema->table as $table) {
            $tables[] = $this->resource->getTableName((string)$table['name']);
        }
        return $tables;
    }
}
