<?php

declare(strict_types=1);

namespace Magento\Framework\Component;

interface ComponentRegistrarInterface
{
    public function getPath($type, $componentName);
}
