<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Magento\Framework\App\Config\ScopeConfigInterface;

/**
 * Which attributes are configured as AI-written. Reads the configuration that Magento has in its cache; no query.
 */
class AiWrittenAttributes
{
    public const PATH = 'tocsin/provenance/ai_attributes';

    private ScopeConfigInterface $config;

    public function __construct(ScopeConfigInterface $config)
    {
        $this->config = $config;
    }

    /**
     * @return AiWrittenAttribute[] by key; what is unreadable is left out: saves must not suffer from it
     */
    public function all(): array
    {
        $rows = $this->config->getValue(self::PATH);
        if (is_string($rows)) {
            $rows = json_decode($rows, true);
        }
        $attributes = [];
        foreach (is_array($rows) ? $rows : [] as $row) {
            if (is_array($row)) {
                $attribute = new AiWrittenAttribute($row);
                $attributes[$attribute->key()] = $attribute;
            }
        }
        return $attributes;
    }
}
