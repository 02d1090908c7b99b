<?php

declare(strict_types=1);

namespace Magento\Framework\Mview\View;

class Collection
{
    private array $flags = [];

    public function __construct(private array $items = [])
    {
    }

    public function hasFlag($flag)
    {
        return array_key_exists($flag, $this->flags);
    }

    public function setFlag($flag, $value = null)
    {
        $this->flags[$flag] = $value;
        return $this;
    }

    public function getItems()
    {
        return $this->items;
    }

    public function addItem($item)
    {
        $this->items[$item->getId()] = $item;
        return $this;
    }

    public function removeItemByKey($key)
    {
        unset($this->items[$key]);
        return $this;
    }
}
