<?php

declare(strict_types=1);

namespace Magento\Framework\Mview\View;

interface SubscriptionInterface
{
}
