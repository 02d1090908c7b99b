<?php

declare(strict_types=1);

namespace Magento\Framework\Stdlib\DateTime;

class DateTime
{
    public function gmtDate($format = null, $input = null)
    {
        return gmdate('Y-m-d H:i:s');
    }
}
