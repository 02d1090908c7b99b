<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Sql;

use Magento\Framework\DB\Adapter\AdapterInterface;
use Magento\Framework\DB\Adapter\DuplicateException;
use PDO;
use PDOException;

/**
 * As much of Magento's database adapter as the module uses, on a real MariaDB, with Magento's session settings.
 */
class PdoConnection implements AdapterInterface
{
    private PDO $pdo;

    public static function open(): self
    {
        $self = new self();
        $self->pdo = new PDO((string)getenv('TOCSIN_TEST_DSN'), (string)getenv('TOCSIN_TEST_USER'), (string)getenv('TOCSIN_TEST_PASSWORD'), [
            PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
            PDO::MYSQL_ATTR_INIT_COMMAND => "SET NAMES utf8, SQL_MODE='', time_zone = '+00:00'",
        ]);
        return $self;
    }

    public function beginTransaction()
    {
        $this->pdo->beginTransaction();
        return $this;
    }

    public function commit()
    {
        $this->pdo->commit();
        return $this;
    }

    public function rollBack()
    {
        $this->pdo->rollBack();
        return $this;
    }

    public function inTransaction(): bool
    {
        return $this->pdo->inTransaction();
    }

    public function insertMultiple($table, array $data)
    {
        return $this->insertRows($table, $data, '');
    }

    public function insertOnDuplicate($table, array $data, array $fields = [])
    {
        $updates = array_map(fn ($field) => "`$field` = VALUES(`$field`)", $fields);
        return $this->insertRows($table, $data, ' ON DUPLICATE KEY UPDATE ' . implode(', ', $updates));
    }

    public function update($table, array $bind, $where = '')
    {
        $sets = implode(', ', array_map(static fn ($column) => "`$column` = :$column", array_keys($bind)));
        return $this->run("UPDATE `$table` SET $sets WHERE $where", $bind)->rowCount();
    }

    public function query($sql, $bind = [])
    {
        return $this->run($sql, $bind);
    }

    public function multiQuery($sql, $bind = [])
    {
        return [$this->run($sql, $bind)];
    }

    public function isTableExists($tableName, $schemaName = null)
    {
        return (bool)$this->fetchOne('SHOW TABLES LIKE ' . $this->pdo->quote($tableName));
    }

    public function fetchAll($sql, $bind = [], $fetchMode = null)
    {
        return $this->run($sql, $bind)->fetchAll(PDO::FETCH_ASSOC);
    }

    public function fetchCol($sql, $bind = [])
    {
        return $this->run($sql, $bind)->fetchAll(PDO::FETCH_COLUMN);
    }

    public function fetchPairs($sql, $bind = [])
    {
        return $this->run($sql, $bind)->fetchAll(PDO::FETCH_KEY_PAIR);
    }

    public function fetchOne($sql, $bind = [])
    {
        return $this->run($sql, $bind)->fetchColumn();
    }

    public function quoteInto($text, $value, $type = null, $count = null)
    {
        $quoted = array_map(
            fn ($one) => is_int($one) ? (string)$one : $this->pdo->quote((string)$one),
            is_array($value) ? $value : [$value]
        );
        return str_replace('?', implode(', ', $quoted), $text);
    }

    public function quoteIdentifier($ident, $auto = false)
    {
        return "`$ident`";
    }

    public function tableColumnExists($tableName, $columnName, $schemaName = null)
    {
        return (bool)$this->fetchOne("SHOW COLUMNS FROM `$tableName` LIKE " . $this->pdo->quote($columnName));
    }

    public function run(string $sql, array $bind = []): \PDOStatement
    {
        try {
            $statement = $this->pdo->prepare($sql);
            $statement->execute($bind);
            return $statement;
        } catch (PDOException $fault) {
            if (($fault->errorInfo[1] ?? 0) === 1062) {
                throw new DuplicateException($fault->getMessage(), 1062, $fault);
            }
            throw $fault;
        }
    }

    private function insertRows(string $table, array $rows, string $tail): int
    {
        $columns = array_keys($rows[0]);
        $marks = '(' . implode(', ', array_fill(0, count($columns), '?')) . ')';
        $values = [];
        foreach ($rows as $row) {
            foreach ($columns as $column) {
                $values[] = $row[$column];
            }
        }
        $names = '`' . implode('`, `', $columns) . '`';
        return $this->run(
            "INSERT INTO `$table` ($names) VALUES " . implode(', ', array_fill(0, count($rows), $marks)) . $tail,
            $values
        )->rowCount();
    }
}
