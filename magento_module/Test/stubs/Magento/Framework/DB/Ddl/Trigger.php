<?php

declare(strict_types=1);

namespace Magento\Framework\DB\Ddl;

class Trigger
{
    public const TIME_AFTER = 'AFTER';
    public const EVENT_INSERT = 'INSERT';
    public const EVENT_UPDATE = 'UPDATE';
    public const EVENT_DELETE = 'DELETE';

    /**
     * @param string[] $statements
     */
    public function __construct(private string $name = '', private array $statements = [], private string $table = '')
    {
    }

    public function getName()
    {
        return $this->name;
    }

    public function getTime()
    {
        return self::TIME_AFTER;
    }

    public function getEvent()
    {
        return self::EVENT_INSERT;
    }

    public function getTable()
    {
        return $this->table;
    }

    public function getStatements()
    {
        return $this->statements;
    }
}
