<?php

declare(strict_types=1);

namespace Magento\Framework\Api;

abstract class AbstractSimpleObject
{
    protected array $_data = [];

    protected function _get($key)
    {
        return $this->_data[$key] ?? null;
    }

    public function setData($key, $value)
    {
        $this->_data[$key] = $value;
        return $this;
    }
}
