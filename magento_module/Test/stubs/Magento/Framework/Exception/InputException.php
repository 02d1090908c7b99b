<?php

declare(strict_types=1);

namespace Magento\Framework\Exception;

class InputException extends LocalizedException
{
    private array $errors = [];

    public function __construct(?\Magento\Framework\Phrase $phrase = null, ?\Exception $cause = null, $code = 0)
    {
        parent::__construct($phrase ?? new \Magento\Framework\Phrase('One or more input exceptions have occurred.'), $cause, $code);
    }

    public function addError(\Magento\Framework\Phrase $phrase)
    {
        $this->errors[] = new LocalizedException($phrase);
        return $this;
    }

    public function getErrors()
    {
        return $this->errors;
    }
}
