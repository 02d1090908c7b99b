<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use Magento\Framework\DB\Adapter\AdapterInterface;

/**
 * What Magento's adapter can do beside, for those of our classes that look at tables and change them.
 */
interface SchemaConnection extends AdapterInterface
{
    public function isTableExists($tableName, $schemaName = null);

    public function describeTable($tableName, $schemaName = null);

    public function addColumn($tableName, $columnName, $definition, $schemaName = null);

    public function delete($table, $where = '');

    public function dropTable($tableName, $schemaName = null);
}
