<?php

declare(strict_types=1);

namespace Magento\Framework\Webapi\Rest;

class Response
{
    public array $headers = [];

    public function setHeader($name, $value, $replace = false)
    {
        $this->headers[$name] = $value;
        return $this;
    }
}
