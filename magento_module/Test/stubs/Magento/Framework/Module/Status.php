<?php

declare(strict_types=1);

namespace Magento\Framework\Module;

class Status
{
    public function setIsEnabled($isEnabled, $modules)
    {
    }
}
