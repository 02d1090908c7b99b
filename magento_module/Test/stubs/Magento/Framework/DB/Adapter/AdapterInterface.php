<?php

declare(strict_types=1);

namespace Magento\Framework\DB\Adapter;

interface AdapterInterface
{
    public function beginTransaction();

    public function commit();

    public function rollBack();

    public function insertMultiple($table, array $data);

    public function insertOnDuplicate($table, array $data, array $fields = []);

    public function update($table, array $bind, $where = '');

    public function fetchAll($sql, $bind = [], $fetchMode = null);

    public function fetchCol($sql, $bind = []);

    public function fetchPairs($sql, $bind = []);

    public function fetchOne($sql, $bind = []);

    public function quoteInto($text, $value, $type = null, $count = null);

    public function quoteIdentifier($ident, $auto = false);

    public function query($sql, $bind = []);

    public function multiQuery($sql, $bind = []);

    public function tableColumnExists($tableName, $columnName, $schemaName = null);
}
