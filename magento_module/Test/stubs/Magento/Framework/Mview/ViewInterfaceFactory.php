<?php

declare(strict_types=1);

namespace Magento\Framework\Mview;

class ViewInterfaceFactory
{
    public function create(array $data = [])
    {
        return null;
    }
}
