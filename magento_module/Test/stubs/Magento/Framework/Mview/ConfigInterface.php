<?php

declare(strict_types=1);

namespace Magento\Framework\Mview;

interface ConfigInterface
{
    public function getViews();
}
