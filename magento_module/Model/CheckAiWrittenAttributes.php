<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use DateTimeImmutable;
use DateTimeZone;
use Magento\Eav\Model\Config as EavConfig;
use Magento\Framework\App\ResourceConnection;
use Magento\Framework\Exception\LocalizedException;

/**
 * Refuses a configuration of AI-written attributes from which no records could be made.
 */
class CheckAiWrittenAttributes
{
    private CheckRecord $checkRecord;
    private EavConfig $eavConfig;
    private ResourceConnection $resource;

    public function __construct(CheckRecord $checkRecord, EavConfig $eavConfig, ResourceConnection $resource)
    {
        $this->checkRecord = $checkRecord;
        $this->eavConfig = $eavConfig;
        $this->resource = $resource;
    }

    /**
     * @param mixed[] $rows
     * @return array<string, array<string, string>> the rows as they are to be kept, by key
     * @throws LocalizedException names the attribute, the field and what is wrong
     */
    public function execute(array $rows): array
    {
        $kept = [];
        foreach ($rows as $row) {
            $attribute = new AiWrittenAttribute(is_array($row) ? $row : []);
            $errors = $this->errors($attribute);
            if (isset($kept[$attribute->key()])) {
                $errors[] = (string)__('"attribute" is configured twice: one model writes it');
            }
            if ($errors !== []) {
                throw new LocalizedException(__(
                    'AI-written attribute "%1" of "%2": %3. Nothing was saved.',
                    $attribute->attribute,
                    $attribute->entityType,
                    implode('; ', $errors)
                ));
            }
            $kept[$attribute->key()] = $attribute->row();
        }
        ksort($kept);
        return $kept;
    }

    /**
     * @return string[]
     */
    private function errors(AiWrittenAttribute $attribute): array
    {
        if (!in_array($attribute->entityType, ResolveSubjects::KNOWN_TYPES, true)) {
            return [(string)__('"entity_type" must be one of %1', implode(', ', ResolveSubjects::KNOWN_TYPES))];
        }
        $now = new DateTimeImmutable('now', new DateTimeZone('UTC'));
        $checked = $this->checkRecord->execute([
            'entity_type' => $attribute->entityType,
            'entity_id' => 1,
            'attribute' => $attribute->attribute,
            'model_id' => $attribute->modelId,
            'model_version' => $attribute->modelVersion === '' ? 'named by the run' : $attribute->modelVersion,
            'kind' => $attribute->kind,
            'sensitivity' => $attribute->sensitivity,
            'categories' => $attribute->categories,
            'elements' => $attribute->elements,
            'generated_at' => $now->format(DATE_ATOM),
        ], $now);
        $errors = array_map(
            static fn (array $error) => '"' . $error['field'] . '" ' . $error['reason'],
            $checked->errors
        );
        if ($errors === [] && !$this->exists($attribute)) {
            $errors[] = (string)__('"attribute" does not exist there');
        }
        return $errors;
    }

    private function exists(AiWrittenAttribute $attribute): bool
    {
        if ($attribute->entityType === 'order') {
            return $this->resource->getConnection()->tableColumnExists(
                $this->resource->getTableName('sales_order'),
                $attribute->attribute
            );
        }
        $found = $this->eavConfig->getAttribute($attribute->entityType, $attribute->attribute);
        return $found !== null && (bool)$found->getId();
    }
}
