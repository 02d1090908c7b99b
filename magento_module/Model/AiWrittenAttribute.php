<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

/**
 * "Attribute X of customer | customer_address | order is written by model M", and what a record of such a write says.
 */
class AiWrittenAttribute
{
    public string $entityType;
    public string $attribute;
    public string $modelId;
    /**
     * Empty: each run must name the version.
     */
    public string $modelVersion;
    public string $kind;
    public string $sensitivity;
    /**
     * @var string[]
     */
    public array $categories;
    /**
     * @var string[]
     */
    public array $elements;

    /**
     * @param array<string, mixed> $row as in the configuration
     */
    public function __construct(array $row)
    {
        $this->entityType = $this->text($row, 'entity_type');
        $this->attribute = $this->text($row, 'attribute');
        $this->modelId = $this->text($row, 'model_id');
        $this->modelVersion = $this->text($row, 'model_version');
        $this->kind = $this->text($row, 'kind');
        $this->sensitivity = $this->text($row, 'sensitivity');
        $this->categories = $this->words($row, 'categories');
        $this->elements = $this->words($row, 'elements');
    }

    /**
     * What names it among others.
     */
    public function key(): string
    {
        return $this->entityType . '__' . $this->attribute;
    }

    /**
     * @return array<string, string> as in the configuration
     */
    public function row(): array
    {
        return [
            'entity_type' => $this->entityType,
            'attribute' => $this->attribute,
            'model_id' => $this->modelId,
            'model_version' => $this->modelVersion,
            'kind' => $this->kind,
            'sensitivity' => $this->sensitivity,
            'categories' => implode(', ', $this->categories),
            'elements' => implode(', ', $this->elements),
        ];
    }

    /**
     * @param array<string, mixed> $row
     */
    private function text(array $row, string $key): string
    {
        return is_scalar($row[$key] ?? null) ? trim((string)$row[$key]) : '';
    }

    /**
     * @param array<string, mixed> $row
     * @return string[]
     */
    private function words(array $row, string $key): array
    {
        $words = array_map('trim', explode(',', $this->text($row, $key)));
        return array_values(array_unique(array_filter($words, static fn (string $word) => $word !== '')));
    }
}
