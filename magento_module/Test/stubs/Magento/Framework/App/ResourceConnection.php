<?php

declare(strict_types=1);

namespace Magento\Framework\App;

class ResourceConnection
{
    private ?\Magento\Framework\DB\Adapter\AdapterInterface $connection;
    private string $prefix;

    public function __construct(?\Magento\Framework\DB\Adapter\AdapterInterface $connection = null, string $prefix = '')
    {
        $this->connection = $connection;
        $this->prefix = $prefix;
    }

    public function getConnection()
    {
        return $this->connection;
    }

    public function getTableName($table)
    {
        return $this->prefix . $table;
    }
}
