<?php

declare(strict_types=1);

namespace Magento\Framework\Webapi\Rest;

class Request
{
    public string $method = 'GET';
    public array $body = [];
    public array $headers = [];
    public string $path = '';

    public function getMethod()
    {
        return $this->method;
    }

    public function getBodyParams()
    {
        return $this->body;
    }

    public function getHeader($name, $default = false)
    {
        return $this->headers[$name] ?? $default;
    }

    public function getPathInfo()
    {
        return $this->path;
    }
}
