<?php

declare(strict_types=1);

namespace Psr\Log;

interface LoggerInterface
{
    public function error($message, array $context = []): void;

    public function warning($message, array $context = []): void;
}
