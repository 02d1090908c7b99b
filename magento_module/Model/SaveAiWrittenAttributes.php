<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Magento\Framework\App\Cache\TypeListInterface;
use Magento\Framework\App\Config\ReinitableConfigInterface;
use Magento\Framework\App\Config\Storage\WriterInterface;

/**
 * Keeps which attributes are AI-written, where the admin screen keeps it, too.
 */
class SaveAiWrittenAttributes
{
    private CheckAiWrittenAttributes $check;
    private WriterInterface $writer;
    private TypeListInterface $cacheTypes;
    private ReinitableConfigInterface $config;

    public function __construct(
        CheckAiWrittenAttributes $check,
        WriterInterface $writer,
        TypeListInterface $cacheTypes,
        ReinitableConfigInterface $config
    ) {
        $this->check = $check;
        $this->writer = $writer;
        $this->cacheTypes = $cacheTypes;
        $this->config = $config;
    }

    /**
     * @param AiWrittenAttribute[] $attributes all of them
     * @throws \Magento\Framework\Exception\LocalizedException
     */
    public function execute(array $attributes): void
    {
        $rows = $this->check->execute(
            array_map(static fn (AiWrittenAttribute $attribute) => $attribute->row(), $attributes)
        );
        $this->writer->save(AiWrittenAttributes::PATH, (string)json_encode($rows));
        $this->cacheTypes->cleanType('config');
        $this->config->reinit();
    }
}
