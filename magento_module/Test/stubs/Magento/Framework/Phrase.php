<?php

declare(strict_types=1);

namespace Magento\Framework;

class Phrase
{
    private string $text;
    private array $arguments;

    public function __construct($text, array $arguments = [])
    {
        $this->text = (string)$text;
        $this->arguments = $arguments;
    }

    public function getText(): string
    {
        return $this->text;
    }

    public function getArguments(): array
    {
        return $this->arguments;
    }

    public function render(): string
    {
        $pairs = [];
        foreach ($this->arguments as $key => $value) {
            $pairs['%' . (is_int($key) ? $key + 1 : $key)] = $value;
        }
        return strtr($this->text, $pairs);
    }

    public function __toString()
    {
        return $this->render();
    }
}
