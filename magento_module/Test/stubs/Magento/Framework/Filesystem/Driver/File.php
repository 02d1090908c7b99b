<?php

declare(strict_types=1);

namespace Magento\Framework\Filesystem\Driver;

class File
{
    public function fileGetContents($path, $flag = null, $context = null)
    {
        return file_get_contents($path);
    }
}
