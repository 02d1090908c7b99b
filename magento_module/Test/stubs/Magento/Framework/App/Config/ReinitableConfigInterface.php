<?php

declare(strict_types=1);

namespace Magento\Framework\App\Config;

interface ReinitableConfigInterface
{
    public function reinit();
}
