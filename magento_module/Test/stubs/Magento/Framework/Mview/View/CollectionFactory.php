<?php

declare(strict_types=1);

namespace Magento\Framework\Mview\View;

class CollectionFactory
{
    public function create(array $data = [])
    {
        return [];
    }
}
