<?php

declare(strict_types=1);

namespace Magento\Customer\Model;

class Session
{
    public function getCustomerId()
    {
        return null;
    }
}
