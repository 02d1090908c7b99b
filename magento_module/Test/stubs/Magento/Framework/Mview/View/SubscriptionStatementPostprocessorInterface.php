<?php

declare(strict_types=1);

namespace Magento\Framework\Mview\View;

interface SubscriptionStatementPostprocessorInterface
{
    public function process(string $tableName, string $event, string $statement): string;
}
