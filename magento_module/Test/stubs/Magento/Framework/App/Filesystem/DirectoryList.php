<?php

declare(strict_types=1);

namespace Magento\Framework\App\Filesystem;

class DirectoryList
{
    private string $root;

    public function __construct($root)
    {
        $this->root = (string)$root;
    }

    public function getRoot()
    {
        return $this->root;
    }
}
