<?php

declare(strict_types=1);

namespace Magento\Customer\Controller;

interface AccountInterface
{
}
