<?php

declare(strict_types=1);

namespace Magento\Framework\DB\Ddl;

class Table
{
    public const TYPE_TIMESTAMP = 'timestamp';
    public const TIMESTAMP_INIT = 'TIMESTAMP_INIT';
}
