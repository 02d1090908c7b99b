<?php

declare(strict_types=1);

namespace Magento\Framework\Controller\Result;

class Redirect implements \Magento\Framework\Controller\ResultInterface
{
    public string $path = '';

    public function setPath($path, array $params = [])
    {
        $this->path = $path;
        return $this;
    }
}
