<?php

declare(strict_types=1);

namespace Magento\Framework\DB\Adapter;

class DuplicateException extends \RuntimeException
{
}
